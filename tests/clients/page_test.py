"""The server's own page in headless Chromium. PAGE_SHOTS=FOLDER keeps pictures of it."""

import json
import os
import shutil
import unittest

from playwright.sync_api import expect, sync_playwright

import harness

TOOLS = '[{"name": "get_weather", "parameters": {"type": "object", "properties": ' \
        '{"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": false}}]'


class PageTest(harness.ServerTest):
    scheme = "light"
    width = 1000

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.playwright = sync_playwright().start()
        program = shutil.which("chromium")
        if program is None:
            raise RuntimeError("the page's tests need chromium: apt-get install chromium")
        cls.browser = cls.playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        super().tearDownClass()

    def setUp(self):
        context = self.browser.new_context(viewport={"width": self.width, "height": 800}, color_scheme=self.scheme)
        self.addCleanup(context.close)
        self.page = context.new_page()
        self.problems = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        # A refused request is an error in the console, too; the page tells of it in words.
        self.page.on("console", lambda line: self.problems.append(line.text)
                     if line.type == "error" and "the server responded with a status" not in line.text else None)
        self.page.goto(self.server.url)
        expect(self.page.locator("#model option").first).to_be_attached()

    def tearDown(self):
        self.assertEqual(self.problems, [])
        super().tearDown()

    def shoot(self, name):
        folder = os.environ.get("PAGE_SHOTS")
        if folder:
            self.page.screenshot(path=os.path.join(folder, f"{name}.png"))

    def set(self, **fields):
        """Settings by their ids, "-" as "_"."""
        self.page.click("#settings-button")
        for name, value in fields.items():
            control = self.page.locator("#" + name.replace("_", "-"))
            if control.evaluate("it => it.tagName") == "SELECT":
                control.select_option(value)
            else:
                control.fill(value)
        self.page.click("#settings-button")

    def say(self, text):
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def wait(self):
        expect(self.page.locator("#send")).to_be_visible(timeout=60000)
        expect(self.page.locator("#send")).to_be_enabled()

    @staticmethod
    def never_end(route):
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True}))

    def turns(self):
        return self.page.locator("article")


class Conversation(PageTest):
    def test_thinking_answer_and_reload(self):
        self.set(max_tokens="40")
        self.page.select_option("#effort", "high")
        self.say("Sort these: 9, 3, 6")
        self.wait()
        expect(self.turns()).to_have_count(2)
        thinking = self.page.locator("details.thinking")
        expect(thinking).to_have_count(1)
        self.assertFalse(thinking.evaluate("it => it.open"))
        thinking.locator("summary").click()
        self.assertTrue(thinking.locator("p").inner_text())
        expect(self.turns().last.locator(".usage")).to_contain_text("of answer")
        self.shoot("thinking")
        before = self.turns().all_inner_texts()
        self.page.reload()
        expect(self.turns()).to_have_count(2)
        self.page.locator("details.thinking summary").click()
        self.assertEqual(self.turns().all_inner_texts(), before)

    def test_tool_call_and_its_result(self):
        self.set(tools=TOOLS, tool_choice="required", max_tokens="300")
        self.page.select_option("#effort", "none")
        self.say("What is the weather?")
        self.wait()
        call = self.page.locator(".call").first
        expect(call).to_contain_text("Calls get_weather")
        self.assertIn(call.locator("dd").inner_text(), ["Rome", "Oslo"])
        self.shoot("call")
        self.set(tool_choice="none")
        boxes = self.page.locator(".results textarea")
        for i in range(boxes.count()):
            boxes.nth(i).fill("rain")
        self.page.click(".results button")
        self.wait()
        expect(self.page.locator("article.tool").first).to_contain_text("rain")
        expect(self.turns().last).to_contain_text("Cachalot")

    def test_stop_by_button_and_by_key(self):
        for stop in [lambda: self.page.click("#stop"), lambda: self.page.keyboard.press("Escape")]:
            cancelled = self.server.metric("cachalot_requests_cancelled_total")
            self.set(max_tokens="60000")
            self.page.route("**/v1/chat/completions", self.never_end)
            self.say("Count up, for ever.")
            expect(self.page.locator("#stop")).to_be_visible()
            expect(self.turns().last.locator(".text")).not_to_be_empty()
            stop()
            self.wait()
            self.assert_comes_to("cachalot_requests_cancelled_total", cancelled + 1)
            expect(self.turns().last).to_contain_text("Stopped.")

    def test_edit_is_a_branch(self):
        self.set(max_tokens="12")
        self.say("First words")
        self.wait()
        first = self.turns().last.inner_text()
        self.page.click("article.user button[title^=Edit]")
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type("Other words")
        self.page.keyboard.press("Enter")
        self.wait()
        expect(self.turns().first).to_contain_text("2 of 2")
        expect(self.turns().first).to_contain_text("Other words")
        self.shoot("branch")
        self.page.click("article.user button[title='The branch before']")
        expect(self.turns().first).to_contain_text("First words")
        self.assertEqual(self.turns().last.inner_text(), first)
        self.page.click("article.assistant button[title^=Another]")
        self.wait()
        expect(self.turns().last).to_contain_text("2 of 2")
        self.page.reload()
        expect(self.turns().first).to_contain_text("1 of 2")

    def test_errors_in_words(self):
        self.say("word " * 70000)
        expect(self.page.locator(".error")).to_contain_text("maximum context length")
        self.page.click("#new")
        self.set(tools="{")
        self.say("Hello")
        expect(self.page.locator(".error")).to_contain_text("no JSON")
        self.shoot("error")

    def test_markup_in_text_stays_text(self):
        self.set(max_tokens="1")
        self.say("<img src=x onerror=alert(1)> `code` **strong**\n```\n<b>\n```")
        self.wait()
        body = self.turns().first.locator(".body")
        expect(body).to_contain_text("<img src=x onerror=alert(1)>")
        self.assertEqual(body.locator("img, b").count(), 0)
        self.assertEqual(body.locator("pre code").inner_text(), "<b>")

    def test_files_and_conversations(self):
        self.set(max_tokens="1")
        self.page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"inside"})
        expect(self.page.locator("#files")).to_contain_text("a.txt")
        self.say("Read it.")
        self.wait()
        expect(self.turns().first.locator("pre")).to_have_text("inside")
        self.page.click("#new")
        expect(self.turns()).to_have_count(0)
        self.page.select_option("#conversations", index=1)
        expect(self.turns()).to_have_count(2)
        self.page.once("dialog", lambda dialog: dialog.accept())
        self.page.click("#remove")
        expect(self.turns()).to_have_count(0)

    def test_the_engine(self):
        self.page.click("#settings-button")
        self.page.click("#engine summary")
        expect(self.page.locator("#engine dl")).to_contain_text("MiB")
        self.shoot("engine")


class Narrow(PageTest):
    scheme = "dark"
    width = 400

    def test_by_keyboard(self):
        self.set(max_tokens="30")
        self.page.select_option("#effort", "high")
        self.page.focus("#message")
        self.page.keyboard.type("Hello there")
        self.page.keyboard.press("Enter")
        self.wait()
        expect(self.page.locator("#message")).to_be_focused()
        # Every control is reached with the Tab key.
        reached = set()
        for _ in range(40):
            self.page.keyboard.press("Tab")
            reached.add(self.page.evaluate("document.activeElement.id || document.activeElement.title"
                                           " || document.activeElement.tagName"))
        for name in ["new", "conversations", "settings-button", "message", "effort", "file", "send", "SUMMARY",
                     "Edit as a new branch", "Another answer, as a new branch"]:
            self.assertIn(name, reached)
        self.assertLessEqual(self.page.evaluate("document.documentElement.scrollWidth"), self.width)
        self.shoot("narrow")
        self.page.click("#settings-button")
        self.shoot("narrow-settings")


if __name__ == "__main__":
    unittest.main()
