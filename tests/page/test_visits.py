"""What holds in every mode: the key, reloads, languages, colours, small screens, the keyboard, and axe's rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.files import ROOT
from tests.page.conftest import SHORT, Open
from tests.page.expecting import expect

pytestmark = pytest.mark.page

KEY = "a-key-of-this-test"
TABS = ("chat", "call", "describe", "transcribe")
PHONE: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


async def test_a_key_is_forgotten_on_reload_unless_it_is_to_be_kept(open_world: Open) -> None:
    async with open_world(api_key=KEY) as world, world.page() as page:
        refused = page.get_by_role("alert").get_by_text("The server wants a valid API key.")
        field = page.get_by_label("API key")
        await expect(refused).to_be_visible()
        await field.fill("wrong")
        await field.press("Enter")
        await expect(refused).to_be_visible()
        await field.fill(KEY)
        await field.press("Enter")
        await expect(page.get_by_role("note")).to_contain_text("tiny checkpoint of random weights")
        assert KEY not in await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        await page.reload()
        await expect(refused).to_be_visible()
        await field.fill(KEY)
        await page.get_by_label("Keep it until this tab is closed").check()
        await expect(page.get_by_role("note")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("note")).to_be_visible()
        assert KEY not in await page.evaluate("JSON.stringify({...localStorage})")
        await page.locator("summary").first.click()
        await page.get_by_label("Keep it until this tab is closed").uncheck()
        await page.wait_for_function("sessionStorage.length === 0")


async def test_a_call_has_the_key(open_world: Open) -> None:
    async with open_world(api_key=KEY) as world, world.page("#call") as page:
        await page.get_by_label("API key").fill(KEY)
        await page.get_by_label("API key").press("Enter")
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_text("Listening")).to_be_visible()


async def test_settings_and_mode_survive_a_reload(open_world: Open) -> None:
    async with open_world() as world, world.page() as page:
        await page.locator("summary").first.click()
        await page.get_by_label("Language of the page").select_option("zh")
        await page.get_by_label("配色").select_option("dark")
        await page.get_by_label("音色").select_option("chelsie")
        await page.get_by_role("tab", name="语音转写").click()
        await page.wait_for_function("localStorage.getItem('antiphon.voice') === 'chelsie'")
        await page.reload()
        await expect(page.get_by_role("tab", name="语音转写")).to_have_attribute("aria-selected", "true")
        assert await page.evaluate("document.documentElement.lang") == "zh"
        assert await page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
        await page.locator("summary").first.click()
        await expect(page.get_by_label("音色")).to_have_value("chelsie")


async def test_a_visitor_gets_the_language_and_colours_of_the_browser(open_world: Open) -> None:
    async with open_world() as world:
        backgrounds: set[str] = set()
        for locale, word, colours in (("zh-CN", "聊天", "light"), ("fr-FR", "Chat", "dark")):
            async with world.page(locale=locale, color_scheme=colours) as page:
                await expect(page.get_by_role("tab", name=word)).to_be_visible()
                backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2


async def test_the_page_fits_a_phone(open_world: Open) -> None:
    async with open_world() as world:
        for locale in ("en-GB", "zh-CN"):
            async with world.page(locale=locale, **PHONE) as page:
                await page.locator("summary").first.click()
                for tab in TABS:
                    await page.locator(f"#tab-{tab}").click()
                    wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert wide <= 0, (locale, tab)
                    for button in await page.locator("button:visible").all():
                        box = await button.bounding_box()
                        assert box is not None
                        assert min(box["height"], box["width"]) >= 44, await button.inner_text()


async def test_the_keyboard_is_enough(open_world: Open) -> None:
    async with open_world() as world, world.page() as page:
        await expect(page.get_by_role("tab", name="Chat")).to_be_visible()
        focused = page.locator(":focus")

        async def tab_to(role: str) -> None:
            what = "e => e.getAttribute('role') || e.tagName"
            while await focused.count() == 0 or await focused.evaluate(what) != role:
                await page.keyboard.press("Tab")

        await tab_to("tab")
        for key, name in (("ArrowRight", "Voice call"), ("End", "Transcribe"), ("ArrowRight", "Chat")):
            await page.keyboard.press(key)
            await expect(focused).to_have_text(name)
            await expect(focused).to_have_attribute("aria-selected", "true")
        await tab_to("TEXTAREA")
        await page.keyboard.type("hello")
        await page.keyboard.press("Enter")
        await expect(page.locator(".chat .message.assistant .text")).to_have_text(SHORT.text.strip())


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
async def test_axe_finds_nothing(open_world: Open, locale: str, colours: str) -> None:
    axe = (ROOT / "web/node_modules/axe-core/axe.min.js").read_text()
    async with open_world() as world:
        for size in ({}, PHONE):
            async with world.page(locale=locale, color_scheme=colours, bypass_csp=True, **size) as page:
                await page.locator("textarea").fill("hello")
                await page.locator(".composer button[type=submit]").click()
                await expect(page.locator(".chat .message.assistant audio")).to_be_visible()
                await page.locator("summary").first.click()
                await page.evaluate(axe)
                for tab in TABS:
                    await page.locator(f"#tab-{tab}").click()
                    if tab == "call":
                        await page.locator("#panel-call button").click()
                        await expect(page.locator(".state.listening")).to_be_visible()
                        await page.locator("#panel-call input[type=checkbox]").check()
                        await expect(page.locator(".talk")).to_be_visible()
                    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                    assert [(each["id"], each["nodes"]) for each in found["violations"]] == [], tab
