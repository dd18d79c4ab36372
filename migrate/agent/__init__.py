"""The agent on the target: a zipapp of this project's packages, sent by SSH and run from memory."""
