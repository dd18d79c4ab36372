#!/bin/sh
# PID 1 of a VM until it has its own files, a tar archive on the second disk; then that is vm_init.py.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
modprobe virtio_blk
until [ -b /dev/vda ]; do sleep 0.05; done
tar -x -f /dev/vda -C /
exec /usr/bin/python3 -I -B /opt/migrate/tests/rig/vm_init.py
