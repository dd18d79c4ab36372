"""The guardian: a process on the source that ends a migration whose coordinator cannot."""
