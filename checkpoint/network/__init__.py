"""A container's network on one host (migrate/network has its way from host to host).

model.py is the network as data. netns.py reads and makes namespaces, link.py sets links and sends
announcements, frames.py keeps frames, conntrack.py forgets old connections, and guard.py silences
what an engine connects too early.
"""
