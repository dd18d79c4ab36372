"""runc and crun where they are used alone, and the OCI bundles that they run."""
