"""The journal of migrations: on each host, a file for each migration away from it or to it.

Read records.py for what the entries are, account.py for what they come to, and book.py for the
files. checkpoint/host/journal.py has the form of a file.
"""
