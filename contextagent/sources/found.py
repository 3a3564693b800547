"""What a source said: for each owner what it gave, with the verdict, still where it stands."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contextagent.model import Offer, Owner, Problem, Trust, Verdict
    from contextagent.sources.media import NamedMedium


class Found(Value):
    """All that one owner was given by one source, still on its medium.

    Attributes:
        source: `disk:L1+L2` (every layout that the disk is in), or `metadata:DIALECT`.
        trust: `channel` for the site's word on a site-trusted disk, else `none`.
        user_data: Raw, still to be read, or the descriptor of a file with it; always None for the site.
        medium: Where the offers' paths are, open until `Findings.close`; None where every offer has its data with it.
    """

    owner: Owner
    source: str
    trust: Trust
    offers: tuple[Offer, ...]
    variables: Mapping[str, str]
    user_data: bytes | int | None
    medium: NamedMedium | None

    @property
    def is_material(self) -> bool:
        """Whether this ends the owner's search: variables and keys alone do not."""
        return bool(self.user_data) or any(offer.role in ("script", "file", "settings") for offer in self.offers)


class Findings(Value):
    """What one source said.

    Attributes:
        found: Per owner what it gave; it may be less than material, then the verdict is `absent`.
        verdicts: Per owner in the order tried: each medium that was broken or found for it, else one `absent`.
        warnings: What was passed over, and what happens next.
        ids: The instance's identity by kind.
        close: Lets go of every medium; call it when all is staged.
        eject: Closes, then opens the drives that held a context, if `disk.eject` says so.
    """

    found: Mapping[Owner, Found | None]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[Problem, ...]
    ids: Mapping[str, str]
    close: Callable[[], None]
    eject: Callable[[], None]
