"""What every section of the settings is, and what sections with TLS have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Frozen, strict, refuses keys it does not know, and quotes no value in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _file(value: Any) -> Any:
    return (Path(value) if value else None) if isinstance(value, str) else value


# An empty text is no file: so an environment variable takes back what the file of settings says.
OptionalFile = Annotated[Path | None, BeforeValidator(_file)]


class TlsFiles(Section):
    """The PEM files of a connection with TLS."""

    ca_file: OptionalFile = Field(
        default=None,
        description="with TLS: PEM file with the authorities that may have signed the server's "
        "certificate, and no others; by default the system's",
    )
    certificate_file: OptionalFile = Field(
        default=None,
        description="with TLS: PEM file with our own certificate, where the server asks for one (mTLS)",
    )
    key_file: OptionalFile = Field(
        default=None, description="with TLS: PEM file with our certificate's private key"
    )
    key_password_file: OptionalFile = Field(
        default=None, description="with TLS: file with the password of an encrypted private key"
    )

    @model_validator(mode="after")
    def _belong_together(self) -> TlsFiles:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together: give both or neither")
        if self.key_password_file is not None and self.key_file is None:
            raise ValueError("key_password_file has no effect without key_file")
        return self

    @property
    def names_tls_files(self) -> bool:
        """Whether one of the files is set: then a connection without TLS is a mistake."""
        return self.ca_file is not None or self.certificate_file is not None
