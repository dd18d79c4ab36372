"""The way of a container's addresses from the source to the target, both ends of it.

    source.py     the network as the container has it: read before the migration, its frames kept in
                  the freeze, its links taken down after the kill, its parts removed at the end
    target.py     the network that it gets: made with its links down, connected at the resume, and
                  announced to the neighbours

In between, checkpoint/network/model.py is the network as data; migrate/wire/protocol.py has the
messages CheckAddresses, Prepare, Arm and Go that carry it. The phases that ask are preflight,
prepare, arm and commit; migrate/agent/incoming.py and restore.py answer. checkpoint/network does
the work on one host: netns.py reads and makes namespaces, link.py sets links and sends
announcements, frames.py keeps frames, conntrack.py forgets old connections, guard.py silences what
an engine connects early.
"""
