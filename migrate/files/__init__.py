"""The transfer of everything but memory: file trees, tmpfs mounts, logs, images.

trees.py and tmpfs.py keep copies up to date. rsync_tunnel.py is the source's end of a channel
between two rsyncs, tree_door.py the target's. criu_images.py sends CRIU's image files as they are
written. container_image.py sends layers that the target's engine lacks. engine_log.py sends what
the container has printed.
"""
