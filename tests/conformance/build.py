"""Make the suite's folders anew: ``make conformance`` (minutes), or only those named and what is based on them.

Needed only when a statement or a format changes. Proofs are random, and so is what is signed about them; everything
else comes out the same. A case that is not rejected, or accepted, as planned is not written.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import evidence
import false_proofs
import false_receipts
import honest
import trust
from commands import output_of
from conformance import COMMAND, ROOT, SRS, files, lay
from plan import PLANS, Plan
from world import private_key

from zkapex.errors import Error, NotProvedError
from zkapex.proofs.records.signing import load_public_key, save_public_key
from zkapex.proofs.verify import verify_receipt

MODULES = (honest, false_proofs, false_receipts, evidence)
KEY = ROOT / "provider.pem"


def check(plan: Plan, folder: Path) -> None:
    """Raise ValueError unless the receipt is judged as planned."""
    if plan.command != COMMAND:
        code, _, err = output_of(*plan.case(()).arguments(folder))
        if code != (plan.error.exit_code if plan.error else 0) or plan.message not in err:
            raise ValueError(f"expected {plan.error and plan.error.__name__} {plan.message!r}, found {code} {err}")
        return
    error: Error | None = None
    try:
        verified = verify_receipt(folder, [load_public_key(KEY)])
    except Error as caught:
        error = caught
    else:
        if verified.bundle.receipt.outcome.verdict != "proved":
            error = NotProvedError("did not prove the deletion")
    found = None if error is None else type(error)
    if found is not plan.error or (error is not None and plan.message not in error.what):
        raise ValueError(f"expected {plan.error and plan.error.__name__} {plan.message!r}, found {error!r}")


def store(name: str, plan: Plan, made: Path) -> None:
    """Replace a case's folder by what in `made` differs from its base."""
    target = ROOT / name
    base = {SRS: ROOT / "srs.bin"} if plan.base is None else files(plan.base)
    present = {p.relative_to(made).as_posix(): p for p in made.rglob("*") if p.is_symlink() or p.is_file()}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for relative, path in present.items():
        old = base.get(relative)
        if old is not None and not path.is_symlink() and old.read_bytes() == path.read_bytes():
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / relative, follow_symlinks=False)
    (target / "README.md").write_text(plan.readme(), encoding="utf-8")
    (target / "expected.json").write_text(plan.case(tuple(sorted(set(base) - set(present)))).to_json())


def build(name: str) -> None:
    """Make one case."""
    plan = PLANS[name]
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        made = Path(tmp) / "made"
        plan.make(made)
        check(plan, made)
        store(name, plan, made)
        check(plan, lay(name, Path(tmp) / "laid"))
    print(f"{name}: {plan.readme().strip()}", file=sys.stderr)  # noqa: T201


def beneath(name: str) -> list[str]:
    """The cases that lie beneath one: it must be made again when one of them is."""
    base = PLANS[name].base
    return [] if base is None else [base, *beneath(base)]


def depth(name: str) -> int:
    """How many cases lie beneath one."""
    return len(beneath(name))


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    save_public_key(private_key("provider").public_key(), KEY)
    trust.write()
    named = set(sys.argv[1:] or PLANS)
    if unknown := named - set(PLANS):
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    wanted = [name for name in sorted(PLANS, key=depth) if named & {name, *beneath(name)}]
    if not sys.argv[1:]:
        for old in {path.parent for path in ROOT.glob("*/expected.json")} - {ROOT / name for name in PLANS}:
            shutil.rmtree(old)
    wrong = []
    for name in wanted:
        try:
            build(name)
        except (ValueError, FileNotFoundError) as error:  # a base that came out wrong is missing
            wrong.append(f"{name}: {error}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
