"""A Vac factory for tests: its two services to the letter, and its rules for what becomes of a machine.

From: the behaviour of Vac 3.01 (`vacd`) and its manual page `vac.conf(5)`; written anew, nothing taken over but paths,
names of keys and the texts of its own shutdown messages.
"""
