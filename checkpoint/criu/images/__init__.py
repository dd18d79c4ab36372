"""Readers and writers of CRIU's image files (CRIU images/*.proto, criu/image.c)."""
