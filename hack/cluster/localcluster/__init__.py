"""The local cluster: a real Kubernetes with KubeRay on one machine. Runs before the virtual environment exists: standard library only."""
