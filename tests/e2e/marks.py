"""What the modules of whole jobs have in common: their marks, and how long a job may take."""

import pytest

RUN_SECONDS = 420.0
WHOLE_JOBS = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(900)]
ON_SINGLE_HOSTS = [*WHOLE_JOBS, pytest.mark.usefixtures("single_hosts")]
