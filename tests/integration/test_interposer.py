"""The interposer's contract, held against the CRIU that the nodes have."""

import re

from tests.rig import Rig


def test_the_contract_holds_on_the_real_criu(rig: Rig) -> None:
    suite = ["python3", "-m", "pytest", "-q", "/opt/migrate/tests/contract", "--real-criu", "-p", "no:cacheprovider"]
    done = rig.node("alpha").run(["env", "PYTHONDONTWRITEBYTECODE=1", *suite, "-k", "real"], check=False, timeout=300)
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert passed is not None
    assert int(passed[1]) > 30
    assert "skipped" not in done.stdout
