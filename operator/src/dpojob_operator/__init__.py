"""The operator: reconciles DPOJobs into one RayJob per attempt. kopf watches; pure functions decide."""
