"""What the endpoints of DashScope's uploads answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.gateway.http.reply import Reply


class PolicyData(Reply):
    """Numbers are texts, as DashScope's are."""

    policy: str
    signature: str
    upload_dir: str = Field(description="what the name of each file begins with, before a slash")
    upload_host: str = Field(description="the URL to post the form to")
    expire_in_seconds: str = Field(description="of the policy")
    max_file_size_mb: str = Field(description="in MiB, of one file")
    capacity_limit_mb: str
    oss_access_key_id: str
    x_oss_object_acl: Literal["private"] = "private"
    x_oss_forbid_overwrite: Literal["true"] = "true"


class PolicyReply(Reply):
    request_id: str
    data: PolicyData


class UploadedReply(Reply):
    request_id: str
