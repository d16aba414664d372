{{- /* Generated from lib/files/make_secret.py by `make generated`: do not edit. */ -}}
{{- define "antiphon-lib.make-secret" -}}
{{ `"""Make a Secret with random passwords, unless it exists.

A hook Job runs this text before an install or an upgrade; it needs Python and nothing else. Where OLD_NAME is set, it
takes over the values of that Secret, which earlier versions of the chart rendered. The Role allows exactly the requests
made here.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE, NAME, OLD_NAME, ADVICE = (os.environ[name] for name in ("NAMESPACE", "NAME", "OLD_NAME", "ADVICE"))
FIELDS: list[str] = json.loads(os.environ["FIELDS"])


class RefusedError(Exception):
    """The API server answered with an error; the message says which."""


def ask(method: str, name: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Ask for the Secret; return status and answer. Raise RefusedError for an error other than 404 and 409."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}", "Accept": "application/json"}
    path = f"/api/v1/namespaces/{quote(NAMESPACE)}/secrets/{quote(name)}"
    if body is not None:
        headers["Content-Type"] = "application/apply-patch+yaml"
        path += "?fieldManager=antiphon"
    connection = http.client.HTTPSConnection(host, port, context=trusted, timeout=20)
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status >= 400 and answer.status not in (404, 409):
        raise RefusedError(f"{method} {path}: {answer.status} {text}")
    return answer.status, json.loads(text)


def read_secret(name: str) -> dict[str, str] | None:
    """Return the fields in base64; None without such a Secret. Raise RefusedError for a Secret that lacks one."""
    status, secret = ask("GET", name)
    if status == 404:
        return None
    data: dict[str, str] = secret.get("data", {})
    for field in FIELDS:
        if not data.get(field):
            raise RefusedError(f"The Secret {name} has no {field!r}. Delete the Secret, or {ADVICE}.")
    return {field: data[field] for field in FIELDS}


def main() -> None:
    if read_secret(NAME):
        sys.stdout.write(f"The Secret {NAME} exists and stays as it is.\n")
        return
    old = read_secret(OLD_NAME) if OLD_NAME else None
    new = {field: base64.b64encode(secrets.token_urlsafe(32).encode()).decode() for field in FIELDS}
    # Apply rather than create: RBAC can then name the one Secret. Without force, an existing password is a conflict.
    made = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": json.loads(os.environ["LABELS"])},
        "data": old or new,
    }
    status, answer = ask("PATCH", NAME, made)
    if status == 409 and read_secret(NAME):
        sys.stdout.write(f"Another job has just made the Secret {NAME}.\n")
    elif status >= 400:
        raise RefusedError(f"The Secret {NAME} could not be made: {answer.get('message')}")
    else:
        sys.stdout.write(f"Made the Secret {NAME}" + (f" with the values of {OLD_NAME}.\n" if old else ".\n"))


try:
    main()
except RefusedError as error:
    sys.exit(str(error))
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"The API server does not answer: {error!r}")
` }}
{{- end }}
