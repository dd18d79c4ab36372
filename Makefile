# Aliases only: everything is in scripts/.
.PHONY: setup test check demo bench rig-up rig-down

setup test check demo bench:
	scripts/$@

rig-up rig-down:
	scripts/rig $(@:rig-%=%)
