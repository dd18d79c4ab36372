"""The messages between the two ends of a migration, with their types and checks. No I/O here.

A message is declared in protocol.py. Its fields' types are in values.py. message.py turns a message
into a frame and back. answers.py checks an answer against its question.
"""
