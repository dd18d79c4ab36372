"""The one place that names the paths of this tool on a host. docs/files.md says what is in them."""

from pathlib import Path

#: In RAM, and gone after a reboot: directories of migrations, locks, sockets.
RUN = Path("/run/migrate")
#: On disk: container images on their way, records of what a container has left behind.
STATE = Path("/var/lib/migrate")
#: The output of containers of runc and crun, and the logs of migrations that failed.
LOGS = Path("/var/log/migrate")
#: The runtime that docker calls for a container that comes in (checkpoint/engines/docker).
DOCKER_RUNTIME = Path("/usr/local/sbin/migrate-oci-runtime")
