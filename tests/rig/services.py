"""Images with services as people run them, and how the services are started."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.rig.engine import load, set_up
from tests.rig.image import BASE, Layer, write_archive
from tests.rig.node import Node
from tests.rig.tree import node_tree

IMAGE, REDIS_IMAGE = "localhost/rig/services:1", "localhost/rig/redis:1"
NGINX_CONFIGURATION = b"""
daemon off; user root; worker_processes 1; pid /data/nginx.pid; error_log /data/error.log;
events { worker_connections 1024; }
http {
    access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600;
    client_body_temp_path /data/b; proxy_temp_path /data/p; fastcgi_temp_path /data/f;
    uwsgi_temp_path /data/u; scgi_temp_path /data/s;
    server { listen 80; root /srv; }
}
"""
#: Runs nginx with a file of that size.
SERVE = (
    "head -c {mib}M /dev/urandom > /srv/file && exec nginx -e /data/error.log -c /etc/nginx.conf"
)
#: Runs PostgreSQL with its data in /data.
START_POSTGRES = """
export PATH=$PATH:{bin}
chown postgres /data /run
exec setpriv --reuid=postgres --regid=postgres --clear-groups sh -c '
initdb --auth=trust --username=postgres --locale=C.UTF-8 --pgdata=/data/pg > /data/initdb.log &&
echo "host all all all trust" >> /data/pg/pg_hba.conf &&
exec postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories=/run \
    -c shared_buffers=32MB'
"""


def postgres_programs() -> str:
    """Return the directory of PostgreSQL's programs, on the nodes and in the image."""
    version = next((node_tree() / "usr/lib/postgresql").iterdir()).name
    return f"/usr/lib/postgresql/{version}/bin"


def write_redis(archive: Path) -> None:
    """Write the archive of an image with redis (REDIS_IMAGE)."""
    redis = Layer(programs=["redis-server", "redis-cli"])
    write_archive(archive, node_tree(), REDIS_IMAGE, [BASE, redis], ["redis-server"])


def write_services(archive: Path) -> None:
    """Write the archive of an image with nginx and PostgreSQL (IMAGE)."""
    tools = Layer(
        programs=["head", "sha256sum", "chown", "setpriv", "nginx"],
        files={"/etc/nginx.conf": NGINX_CONFIGURATION},
    )
    programs = [
        f"{postgres_programs()}/{name}" for name in ("postgres", "initdb", "psql", "pg_amcheck")
    ]
    trees = ["/usr/lib/postgresql", "/usr/share/postgresql", "/usr/share/zoneinfo/Etc/UTC"]
    write_archive(
        archive, node_tree(), IMAGE, [BASE, tools, Layer(programs=programs, paths=trees)], ["sh"]
    )


def give_redis(nodes: Sequence[Node], engine: str) -> None:
    """Have an engine work on nodes, with the image with redis."""
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "redis.tar"
        write_redis(archive)
        for node in nodes:
            set_up(node, engine)
            load(node, engine, archive)
