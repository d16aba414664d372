"""The tiny checkpoint's processor, loaded once, and a rig for whole requests, one per module."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from services.preprocess.features import FeatureExtractor
from tests.preprocess.rig import Rig, running_rig


@pytest.fixture(scope="session")
def extractor(tiny_instruct: Path) -> FeatureExtractor:
    return FeatureExtractor(tiny_instruct, "auto")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tiny_instruct: Path, extractor: FeatureExtractor) -> AsyncGenerator[Rig]:
    async with running_rig(tiny_instruct, extractor) as rig:
        yield rig
