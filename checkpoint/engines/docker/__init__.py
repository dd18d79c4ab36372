"""docker: the engine itself, its half of an incoming container, its images and volumes.

docker cannot be asked for a restore as this tool needs it. It runs the OCI runtime `migrate`
(oci_wrapper.py) in place of runc, which install.py puts into its settings.
"""
