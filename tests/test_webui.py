"""The page in a real browser over a real server: what a person does, from the drop to the saved file."""

import base64
import json
import os
import re
import signal
import sqlite3

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.small_disk import small_disk
from tests.video_helpers import counter_clip, describe, ffmpeg
from tests.webui_helpers import PATIENCE, SAMPLE, Server, choose, drop, launch, open_page, set_number, wait_for

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("webui"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = open_page(browser, server)
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three tiny clips."""
    folder = tmp_path_factory.mktemp("clips")
    return [counter_clip(folder / f"clip {number}.mp4", 9, 25) for number in range(3)]


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Tiny but long: a job that still runs when a test wants to disturb it."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", "-frames:v", 4000, "-preset", "ultrafast", path)
    return path


def small(page, media="video"):
    """The cheapest job: nano, as large as the input."""
    choose(page, f"{media}-model", "nano")
    set_number(page, f"{media}-scale", 1)


def live(page, media="video"):
    return page.locator(f"#live-{media}")


def start(page, server, media="video", **login):
    """Press Upscale and wait until the page shows the new job. Its id."""

    def newest():
        return next((job["id"] for job in json.loads(server.get("app/state", **login))["jobs"]), None)

    before = newest()
    page.click(f"#{media}-run")
    job = wait_for(lambda: newest() not in (before, None) and newest(), "a new job")
    live(page, media).locator(f'article[data-job="{job}"]').wait_for()
    return job


def idle(server):
    """Wait until nothing runs."""
    wait_for(lambda: not [j for j in server.jobs() if j["status"] in ("queued", "running")], "an empty queue")


def test_it_loads_quietly_and_asks_rarely(browser, server):
    page = open_page(browser, server)
    assert page.complaints == []
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(5000)
    assert 1 <= len(requests) <= 5, requests
    assert all(url.startswith(server.url) for url in requests)
    assert len(server.get("app/state?since=" + server.state()["version"])) < 1000
    page.context.close()


def test_every_control_has_a_name(page):
    for tab in ("Image", "Queue", "Toolbox", "Settings", "Video"):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, textarea, button")]
                .filter((e) => e.offsetParent && !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
                    || e.title || e.innerText.trim() || (e.labels && e.labels.length)))
                .map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], f"{tab}: {nameless}"


def test_a_clip_from_the_drop_to_the_saved_file(page, server):
    drop(page, "video", SAMPLE)
    expect(page.locator("#video-facts")).to_contain_text("320 × 180")
    expect(page.locator("#video-facts")).to_contain_text("aac")
    expect(page.locator("#trim-frames img")).to_have_count(2)
    choose(page, "video-model", "nano")
    set_number(page, "video-scale", 1.25)
    set_number(page, "trim-end", 1.16)
    expect(page.locator("#video-estimate")).to_contain_text("400 × 225")
    expect(page.locator("#video-estimate")).to_contain_text("29, ")
    expect(page.locator("#video-plan")).to_contain_text("expected peak")
    start(page, server)
    live(page).get_by_role("button", name="Pause").click()  # or it could be done before it is looked at
    expect(live(page).locator(".fv-line-text")).to_contain_text("of 29 frames")
    expect(live(page).locator(".fv-previews")).to_be_visible()
    for name in (".fv-in", ".fv-out"):
        wait_for(lambda name=name: live(page).locator(name).evaluate("(e) => e.naturalWidth") > 0, f"preview {name}")
    live(page).get_by_role("button", name="Go on").click()
    expect(live(page).locator(".fv-compare")).to_be_visible()
    expect(live(page).locator(".fv-facts")).to_contain_text("400 × 225")

    compare_follows_the_slider(page)
    with page.expect_download() as saving:
        live(page).get_by_role("link", name="Save").click()
    assert saving.value.suggested_filename == "bbb_320x180_1.25x.mp4"
    text = describe(saving.value.path())
    assert "400x225" in text
    assert "Audio: aac" in text
    assert (server.outputs / "bbb_320x180_1.25x.mp4").is_file()
    assert page.complaints == []


def compare_follows_the_slider(page):
    compare = live(page).locator(".fv-compare")
    videos = compare.locator("video")
    expect(videos).to_have_count(2)
    for index in range(2):
        wait_for(lambda index=index: videos.nth(index).evaluate("(e) => e.readyState") >= 2, "both videos play")
    wipe = compare.get_by_label("Divider between before and after")
    wipe.focus()
    for _ in range(20):
        wipe.press("ArrowLeft")
    layer = compare.locator(".fv-layer").nth(1)
    assert layer.evaluate("(e) => e.style.clipPath") == "inset(0px 0px 0px 40%)"
    compare.get_by_label("One frame on").click()
    compare.get_by_label("One frame on").click()
    expect(compare.locator(".fv-time")).to_have_text("frame 3 / 29")
    times = [videos.nth(index).evaluate("(e) => Math.floor(e.currentTime * 25)") for index in range(2)]
    assert times == [2, 2]
    compare.get_by_label("Zoom in").click()
    assert "scale(1.5)" in compare.locator(".fv-move").first.get_attribute("style")


def test_cancel_and_a_reload_in_the_middle(page, server, long_clip):
    drop(page, "video", long_clip)
    small(page)
    start(page, server)
    expect(live(page).locator(".fv-line-text")).to_contain_text("of 4000 frames")
    page.reload()
    expect(live(page).get_by_role("button", name="Cancel")).to_be_visible()
    live(page).get_by_role("button", name="Pause").click()
    expect(live(page).locator(".fv-line-text")).to_contain_text("paused")
    live(page).get_by_role("button", name="Go on").wait_for()
    live(page).get_by_role("button", name="Cancel").click()
    expect(live(page).locator(".fv-badge")).to_have_text("cancelled")
    assert server.jobs()[0]["status"] == "cancelled"
    assert not (server.outputs / "long_1x.mp4").exists()


def test_a_picture(page, server, tmp_path):
    from PIL import Image

    path = tmp_path / "a picture.png"
    Image.effect_noise((60, 40), 60).convert("RGB").save(path)
    page.get_by_role("tab", name="Image", exact=True).click()
    drop(page, "image", path)
    choose(page, "image-model", "nano")
    set_number(page, "image-scale", 2)
    start(page, server, "image")
    expect(live(page, "image").locator(".fv-compare img")).to_have_count(2)
    expect(live(page, "image").locator(".fv-facts")).to_contain_text("120 × 80")
    assert (server.outputs / "a picture_2x.png").is_file()


def test_a_batch_with_one_broken_file(page, server, clips, tmp_path):
    broken = tmp_path / "not a video.mp4"
    broken.write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj <</Type /Catalog>> endobj\n" * 30)
    drop(page, "video", clips[0], broken, clips[1])
    small(page)
    page.click("#video-run")
    wait_for(lambda: len([j for j in server.jobs() if j["batch"]]) == 3, "three jobs")
    idle(server)
    found = {job["title"]: job for job in server.jobs() if job["batch"]}
    assert {title: job["status"] for title, job in found.items()} == {
        "clip 0.mp4": "done",
        "not a video.mp4": "failed",
        "clip 1.mp4": "done",
    }
    assert "not a video" in found["not a video.mp4"]["error"]
    page.get_by_role("tab", name="Queue", exact=True).click()
    expect(page.locator("#fv-history")).to_contain_text("2 of 3 done · 1 failed")


def test_again_export_and_toolbox(page, server, clips):
    drop(page, "video", clips[0])
    small(page)
    start(page, server)
    expect(live(page).locator(".fv-compare")).to_be_visible()
    live(page).get_by_role("button", name="Export side by side").click()
    expect(live(page).locator("h3")).to_have_text("Comparison of clip 0.mp4")
    expect(live(page).locator(".fv-badge")).to_have_text("done")
    exported = next(path for path in server.outputs.glob("clip 0*_compare.mp4"))
    assert "128x48" in describe(exported)

    page.get_by_role("tab", name="Queue", exact=True).click()
    before = len(server.jobs())
    card = page.locator(".fv-card", has_text="clip 0.mp4").filter(has_text="64 × 48").last
    expect(card.locator("img")).to_be_visible()
    card.get_by_role("button", name="Run again").click()
    wait_for(lambda: len(server.jobs()) == before + 1, "one more job")
    idle(server)
    again = server.jobs()[0]
    assert (again["status"], again["result"]["frames"]) == ("done", 9)

    card.get_by_role("button", name="View").click()
    live(page).get_by_role("button", name="Send to toolbox").click()
    expect(page.locator("#toolbox-known input")).to_have_value("clip 0_1x.mp4 (result)")
    for tool in ("Export (writes the result)", "Loop (filter)"):
        page.locator("#toolbox-tool input").click()
        page.get_by_role("option", name=tool).click()
        page.click("#toolbox-add")
        expect(page.get_by_role("heading", name=tool.split(" (")[0])).to_be_visible()
    page.locator("#tool-times").locator("input, textarea").fill("3")
    page.click("#toolbox-run")
    expect(live(page, "toolbox").locator("video")).to_be_visible()
    assert server.jobs()[0]["result"]["frames"] == 27
    page.locator("#toolbox-tool input").click()
    page.get_by_role("option", name="Analyse (report)").click()
    page.click("#toolbox-add")
    expect(page.get_by_role("heading", name="Analyse")).to_be_visible()
    page.click("#toolbox-run")
    expect(live(page, "toolbox").locator("table")).to_contain_text("h264")
    assert page.complaints == []


@pytest.mark.parametrize(("name", "content"), [("empty.mp4", b""), ("really a pdf.mp4", b"%PDF-1.4\n" * 99)])
def test_bad_files_are_named_at_once(page, server, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    before = len(server.jobs())
    page.set_input_files("#video-files input[type=file]", [str(path)])
    expect(page.locator("#video-facts .fv-error, .toast-body.error").first).to_contain_text(name.split(".")[0])
    page.click("#video-run")
    page.wait_for_selector(".toast-body.error")
    assert len(server.jobs()) == before


def test_a_killed_worker_leaves_the_page_alive(page, server, clips, long_clip):
    drop(page, "video", long_clip)
    small(page)
    start(page, server)
    expect(live(page).locator(".fv-line-text")).to_contain_text("of 4000 frames")
    os.kill(worker_of(server), signal.SIGKILL)
    expect(live(page).locator(".fv-badge")).to_have_text("interrupted")
    expect(live(page)).to_contain_text("signal 9")
    assert not list(server.outputs.glob(".*partial*"))
    page.reload()
    page.wait_for_selector("#video-run")
    drop(page, "video", clips[2])
    small(page)
    start(page, server)
    expect(live(page).locator("h3")).to_have_text("clip 2.mp4")
    expect(live(page).locator(".fv-compare")).to_be_visible()


def test_a_full_disk_is_said_and_the_job_goes_on_later(page, server, clips):
    with small_disk(server.outputs, "4k") as disk:
        drop(page, "video", clips[1])
        small(page)
        start(page, server)
        expect(live(page).locator(".fv-badge")).to_have_text("failed")
        expect(live(page)).to_contain_text(re.compile("no space left", re.IGNORECASE))
        assert not list(disk.folder.glob("*.mp4"))
        disk.grow("10m")
        live(page).get_by_role("button", name="Run again").click()
        expect(live(page).locator(".fv-compare")).to_be_visible()
        assert list(disk.folder.glob("*.mp4"))
    start(page, server)
    expect(live(page).locator(".fv-compare")).to_be_visible()


def worker_of(server):
    """The process id of the worker: the server's child that multiprocessing spawned."""
    import psutil

    children = psutil.Process(server.process.pid).children()
    found = [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything(browser, server, theme):
    page = open_page(browser, server, viewport={"width": 390, "height": 844}, color_scheme=theme)
    for tab in ("Video", "Image", "Queue", "Toolbox", "Settings"):
        entry = page.get_by_role("tab", name=tab, exact=True)
        if entry.is_visible():
            entry.click()
        else:
            page.locator(".overflow-menu > button").click()
            page.locator(".overflow-dropdown button", has_text=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        cut = page.evaluate(
            """() => [...document.querySelectorAll("label, button, p, dd, h3, span")]
                .filter((e) => e.offsetParent && !e.closest(".visually-hidden") && e.innerText.trim()
                    && e.getBoundingClientRect().right > 391)
                .map((e) => e.outerHTML.slice(0, 150))"""
        )
        assert cut == [], tab
    # Text stands out against what is behind it.
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(x) for x in dark.strip("rgba()").split(",")[:3]) < 200) == (theme == "dark")
    page.context.close()


def test_settings_and_jobs_survive_a_restart(browser, tmp_path, clips):
    server = Server(tmp_path)
    try:
        page = open_page(browser, server)
        page.get_by_role("tab", name="Settings", exact=True).click()
        page.locator("#set-output").locator("input, textarea").fill(str(tmp_path / "elsewhere"))
        choose(page, "set-theme", "dark")
        choose(page, "set-preset", "Low VRAM")
        page.click("#set-save")
        expect(page.locator(".toast-body")).to_contain_text("Settings are saved")
        page.context.close()
        server.kill()
        server.start()
        page = open_page(browser, server)
        expect(page.locator("#video-preset input:checked")).to_have_value("Low VRAM")
        expect(page.locator("body")).to_have_class("dark")
        drop(page, "video", clips[0])
        small(page)
        start(page, server)
        expect(live(page).locator(".fv-compare")).to_be_visible()
        assert [path.name for path in (tmp_path / "elsewhere").glob("*.mp4")] == ["clip 0_1x.mp4"]
        server.stop()
        (tmp_path / "data" / "settings.json").write_text('{"theme": "purple", "preset": "Fast"')
        server.start()
        page.reload()
        expect(page.locator("#video-preset input:checked")).to_have_value("Balanced")
        expect(page.get_by_role("alert").first).to_contain_text("settings.json has a problem")
        expect(live(page).locator("h3")).to_have_text("clip 0.mp4")
        page.context.close()
    finally:
        server.stop()


def test_nothing_outside_is_served(server):
    inside = server.jobs()
    assert server.status("gradio_api/file=/etc/passwd") == 403
    assert server.status("gradio_api/file=" + str(server.data / "queue.sqlite")) == 403
    assert server.status("app/static/..%2froutes.py") == 404
    assert server.status("app/media/nobody/path") == 404
    done = next(job for job in inside if job["result"].get("name"))
    assert server.status(f"app/media/{done['id']}/path") == 200
    assert server.status(f"app/media/{done['id']}/..%2f..%2fqueue.sqlite") == 404
    with sqlite3.connect(server.data / "queue.sqlite") as database:
        # Even a job that claims to have written a foreign file does not make it readable.
        database.execute("UPDATE jobs SET result=? WHERE id=?", ('{"path": "/etc/passwd"}', done["id"]))
    assert server.status(f"app/media/{done['id']}/path") == 403
    assert server.status("app/state", Host="evil.example") == 403
    assert server.status(f"app/jobs/{done['id']}/again", "POST") == 403
    assert server.status(f"app/jobs/{done['id']}/again", "POST", X_FlashVSR="1", Origin="http://evil.example") == 403


def test_users_log_in_and_do_not_meet(browser, tmp_path, clips):
    server = Server(tmp_path, "--listen", "--auth", "ann:secret1", "--auth", "bob:secret2")
    try:
        assert server.status("") == 401
        assert server.status("app/state") == 401
        wrong = base64.b64encode(b"ann:secret2").decode()
        assert server.status("app/state", Authorization=f"Basic {wrong}") == 401
        ann = open_page(browser, server, http_credentials={"username": "ann", "password": "secret1"})
        drop(ann, "video", clips[0])
        small(ann)
        own = {"Authorization": "Basic " + base64.b64encode(b"ann:secret1").decode()}
        job = start(ann, server, **own)
        expect(live(ann).locator(".fv-compare")).to_be_visible()
        assert [path.name for path in (server.outputs / "ann").glob("*.mp4")] == ["clip 0_1x.mp4"]
        login = {"Authorization": "Basic " + base64.b64encode(b"bob:secret2").decode()}
        assert json.loads(server.get("app/state", **login))["jobs"] == []
        assert server.status(f"app/media/{job}/path", **login) == 404
        assert server.status(f"app/jobs/{job}/remove", "POST", X_FlashVSR="1", **login) == 404
        ann.context.close()
    finally:
        server.stop()
