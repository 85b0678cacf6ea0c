"""A report for people: one page, in HTML, PDF, or as JSON; every figure in it is signed in a report or receipt."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

from zkapex.errors import InputError
from zkapex.proofs.receipts.bundle import Bundle
from zkapex.proofs.receipts.receipt import sayings_of
from zkapex.proofs.receipts.report import ReportPredicate
from zkapex.proofs.receipts.sayings import percent, texts

Reader = Literal["dpo", "auditor", "subject"]
READERS: tuple[Reader, ...] = ("dpo", "auditor", "subject")
VERDICTS = ("proved", "failed", "unreachable")


def content(
    report: ReportPredicate,
    bundles: list[Bundle],
    reader: Reader,
    opening: dict[str, str] | None = None,
    language: str = "en",
) -> dict[str, Any]:
    """What a page says to a reader, as plain values.

    A data subject is told neither mask nor guard, nor which clients there are: these say what kind of data was deleted.

    Parameters
    ----------
    opening : dict, optional
        ``description`` and ``random`` of the data subject's own commitment.
    """
    words, case = texts(language)["report"], report.case
    facts, first = bundles[0].dossier.facts, bundles[0]
    shows, does_not_show = sayings_of(first.receipt, first.dossier.facts)
    out: dict[str, Any] = {
        "for": reader,
        "request": report.request_id,
        "controller": case.controller,
        "contact": case.contact,
        "complaints": case.complaints,
        "reference": case.reference,
        "ground": words["grounds"][case.ground],
        "received": f"{case.received:%Y-%m-%d}",
        "due": f"{case.due:%Y-%m-%d}",
        "extension": case.extension,
        "completed": None if case.completed is None else f"{case.completed:%Y-%m-%d}",
        "in_time": None if case.completed is None else case.completed <= case.due,
        "asked": report.asked,
        "counts": {verdict: getattr(report, verdict) for verdict in VERDICTS},
        "not_asked": case.quarantined + case.refused,
        "scope": list(case.scope),
        "not_covered": list(words["not_covered"].values()),
        "issued": f"{report.issued_at:%Y-%m-%d %H:%M} UTC",
        "method": words["methods"].get(report.operator, report.operator),
    }
    if reader == "subject":
        return out | {"opening": opening}
    out |= {
        "quarantined": case.quarantined,
        "refused": case.refused,
        "operator": report.operator,
        "audit": report.audit,
        "detection": None if facts.audit_detection is None else percent(facts.audit_detection),
        "effects": [effect.model_dump() for effect in case.effects],
        "shows": [saying.words(language) for saying in shows],
        "does_not_show": [saying.words(language) for saying in does_not_show],
        "lines": [
            {
                "client": line.client_ref[:16],
                "verdict": line.verdict,
                "issued": f"{line.issued_at:%Y-%m-%d %H:%M}",
                "receipt": line.receipt,
            }
            for line in report.receipts
        ],
    }
    if reader == "auditor":
        out["technical"] = {
            "server_key": report.server_key,
            "manifest": facts.manifest_digest,
            "reference_string": f"{facts.srs_digest} ({facts.srs_origin})" if facts.srs_digest else "none is needed",
            "verification_key": facts.circuit_digest,
            "mask": facts.mask_digest,
            "guard": facts.guard_digest,
            "tolerances": f"stationarity {facts.tau_s}, guard {facts.tau_g}",
            "enrolments": [
                f"{b.dossier.facts.enrolment_digest} (revision {b.dossier.facts.enrolment_revision})" for b in bundles
            ],
        }
    return out


def page(values: dict[str, Any], language: str = "en") -> str:
    """The page as HTML, which needs nothing else: no script, no font, no picture from elsewhere.

    Raises
    ------
    InputError
        The extra ``report``, which brings jinja2, is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise InputError("reports need the extra `report`", fix="pip install 'zkapex[report]'") from None
    source = (files("zkapex.proofs.receipts") / "texts" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(
        v=values, t=texts(language)["report"], language=language, **_bar(values)
    )


def pdf(html: str) -> bytes:
    """The page as a PDF.

    Raises
    ------
    InputError
        The extra ``report``, which brings weasyprint, is not installed.
    """
    try:
        import weasyprint
    except (ImportError, OSError):
        raise InputError(
            "PDF needs the extra `report` and the system's Pango", fix="pip install 'zkapex[report]'"
        ) from None
    return bytes(weasyprint.HTML(string=html).write_pdf(pdf_ua=True) or b"")


def _bar(values: dict[str, Any]) -> dict[str, Any]:
    """Parts of the bar that shows who answered what: offset and width in a picture 600 wide."""
    counts = {**values["counts"], "not_asked": values["not_asked"]}
    total = sum(counts.values()) or 1
    parts, at = [], 0.0
    for name, count in counts.items():
        if count:
            width = 600 * count / total
            parts.append({"name": name, "count": count, "x": round(at, 2), "width": round(width, 2)})
            at += width
    return {"parts": parts, "total": total}
