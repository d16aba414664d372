"""The fields of an upload's form beside the file: those of Alibaba's object store, as its clients send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.errors import BadInput
from services.common.http.errors import bad_input_from

FILE = "file"


class UploadFields(BaseModel):
    """They come before `file`, which is not among them: it is no text."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    policy: str = Field(description="of the policy, as it is")
    signature: str = Field(alias="Signature", description="of the policy, as it is")
    key: str = Field(description="the policy's `upload_dir`, a slash and the file's name")
    access_key: str = Field(default="", alias="OSSAccessKeyId", description="of the policy; it has no effect")
    acl: str = Field(default="", alias="x-oss-object-acl", description="it has no effect: files are private")
    forbid_overwrite: str = Field(
        default="", alias="x-oss-forbid-overwrite", description="it has no effect: no file is ever overwritten"
    )
    content_type: str = Field(default="", alias="x-oss-content-type", description="it has no effect: the bytes decide")
    status: str = Field(default="", alias="success_action_status", description="it has no effect: the status is 200")


def upload_fields_from(values: Mapping[str, Sequence[str]]) -> UploadFields:
    """Return the fields of a form. Raise BadInput that names the field."""
    if twice := next((name for name, given in values.items() if len(given) > 1), None):
        raise BadInput(f"Invalid '{twice[:100]}': it is there twice. Send it once.", param=twice[:100])
    raw = {name: given[0] for name, given in values.items()}
    try:
        return UploadFields.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
