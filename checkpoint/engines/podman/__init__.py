"""podman: the engine itself, its half of an incoming container, its images and volumes."""
