"""The engines that own containers: runc and crun alone (oci/), podman/ and docker/.

base.py says what an engine must do. registry.py finds the engine that has a container.
"""
