"""Settings of files and batches."""

from __future__ import annotations

from pydantic import Field, SecretStr

from services.common.settings import ServiceSettings


class BatchSettings(ServiceSettings):
    object_store_url: str = Field(
        default="",
        description="where files and the results of batches are kept: file:///folder, which all gateways share, or"
        " s3://bucket/prefix; empty = /v1/files and /v1/batches are not served",
    )
    object_store_endpoint: str = Field(
        default="", description="URL of an S3 server that is not Amazon's: http://minio:9000; empty = Amazon's"
    )
    object_store_key: str = Field(
        default="", description="access key id of the object store; empty = as its client finds credentials"
    )
    object_store_secret: SecretStr = Field(default=SecretStr(""), description="secret access key of the object store")
    batches_address: str = Field(
        default="",
        pattern=r"^([^\s/:]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$|^$",
        description="host:port of the control plane's gRPC that has files and batches; empty = control_address",
    )
    max_file_bytes: int = Field(default=200 * 1024**2, ge=1024, description="largest file of /v1/files")
    batch_concurrency: int = Field(
        default=16,
        ge=0,
        le=1024,
        description="lines of batches that this gateway runs at a time, at most; 0 = it runs none",
    )
    batch_line_bytes: int = Field(default=16 * 1024**2, ge=1024, description="largest line of a batch's input")
    batch_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="a batch's line begins only while less than this part of its stages' slots is busy, so that the"
        " rest is free for who comes next",
    )
    upload_expiry_s: int = Field(
        default=48 * 3600,
        ge=60,
        le=30 * 86_400,
        description="how long files that DashScope's clients upload are kept",
    )
    uploads_url: str = Field(
        default="",
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$|^$",
        description="https://host that DashScope's clients are to upload files to; empty = as their request's Host and"
        " X-Forwarded-Proto say",
    )
