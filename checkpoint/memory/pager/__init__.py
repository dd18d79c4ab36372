"""The fill: memory is brought to restored tasks that run already. It happens on the target.

pager.py talks with CRIU and holds the descriptors. address_spaces.py and missing.py know what is
missing where. filler.py copies pages, by uffd_copy.py. keeper.py is the process that goes on if the
pager's is killed.
"""
