"""The parts behind the page, without a browser: names, login, settings, queue, widgets, presets, facts."""

import base64
import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from src.config import Options, option
from src.errors import InputError
from src.ui.estimate import estimate
from src.ui.facts import bytes_text, facts_of, time_text
from src.ui.presets import PRESETS, preset_values
from src.ui.security import inside, parse_auth, safe_name, user_of
from src.ui.service import Service, folder_files
from src.ui.settings import Settings, SettingsFile
from src.ui.store import Job, Store
from tests.video_helpers import SAMPLE

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\clip.mp4", "clip.mp4"),
        ("..", "file"),
        ("", "file"),
        (".hidden.mp4", "hidden.mp4"),
        ("a\x00b\nc.mp4", "a_b_c.mp4"),
        ('<x>:"|?*%s.mp4', "_x_s.mp4".replace("_x_s", "_x_s")),
        ("con.mp4", "_con.mp4"),
        ("урок 1.mp4", "урок 1.mp4"),
        ("a" * 300 + ".mp4", "a" * 76 + ".mp4"),
    ],
)
def test_names_are_made_safe(name, safe):
    made = safe_name(name)
    assert made == safe
    assert Path(made).name == made


def test_links_do_not_lead_outside(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to("/etc")
    assert inside(folder / "a.mp4", [folder])
    assert not inside(folder / "link" / "passwd", [folder])
    assert not inside(folder / ".." / "a.mp4", [folder])


def test_logins():
    assert parse_auth(["ann:pass:word"]) == {"ann": "pass:word"}
    for bad in ("ann", ":secret", "an/n:secret", "..:secret", "ann:123"):
        with pytest.raises(InputError, match="--auth"):
            parse_auth([bad])
    header = {"authorization": "Basic " + base64.b64encode("ann:pä:ss".encode()).decode()}
    assert user_of(header) == ("ann", "pä:ss")
    for broken in ("Basic", "Basic !!!", "Bearer x", "Basic /w=="):
        assert user_of({"authorization": broken}) == ("", "")


@pytest.mark.parametrize("flag", ["--listen", "--share"])
def test_an_open_page_needs_a_login(flag):
    done = subprocess.run(
        [sys.executable, "webui.py", flag], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "warning" in done.stderr
    assert f"{flag} needs --auth" in done.stderr


def test_settings_come_back_and_bad_ones_do_no_harm(tmp_path):
    file = SettingsFile(tmp_path / "settings.json")
    file.save(Settings(str(tmp_path / "out"), "models", "dark", "Fast"))
    assert SettingsFile(file.path).current == file.current
    assert json.loads(file.path.read_text())["theme"] == "dark"

    file.path.write_text(json.dumps({"theme": "purple", "preset": "Best", "colour": 1}))
    loaded = SettingsFile(file.path)
    assert (loaded.current.theme, loaded.current.preset) == ("system", "Best")
    assert "purple" in loaded.problem
    assert "colour is unknown" in loaded.problem

    file.path.write_text("{broken")
    loaded = SettingsFile(file.path)
    assert loaded.current == Settings()
    assert loaded.problem
    assert (tmp_path / "settings.broken.json").read_text() == "{broken"
    for bad in ({"theme": "x"}, {"preset": 3}, {"output_folder": " "}, {"output_folder": __file__}):
        with pytest.raises(InputError):
            Settings(**bad)
    with pytest.raises(InputError, match="cannot be saved"):
        file.save(Settings("/proc/nowhere/out"))


def test_folders_of_the_command_line_hold_and_are_not_saved(tmp_path):
    path = tmp_path / "settings.json"
    SettingsFile(path).save(Settings(str(tmp_path / "saved"), "models", "dark"))
    file = SettingsFile(path, {"output_folder": str(tmp_path / "given")})
    assert file.current == Settings(str(tmp_path / "given"), "models", "dark")
    file.save(Settings(str(tmp_path / "typed"), "weights", "light"))
    assert file.current == Settings(str(tmp_path / "given"), "weights", "light")
    assert not (tmp_path / "typed").exists()
    assert SettingsFile(path).current == Settings(str(tmp_path / "saved"), "weights", "light")
    with pytest.raises(InputError):
        SettingsFile(path, {"output_folder": __file__})


def test_the_queue_survives(tmp_path):
    store = Store(tmp_path / "queue.sqlite")
    first = store.add(Job("upscale", "a", {"options": {"scale": 2}}, owner="ann"))
    second = store.add(Job("upscale", "b", {}, owner="bob"))
    before = store.version
    store.update(first.id, status="running")
    assert store.version > before
    store.close()  # and no farewell: as after a power cut

    store = Store(tmp_path / "queue.sqlite")
    assert store.get(first.id).status == "interrupted"
    assert "resume" in store.get(first.id).error
    assert store.get(first.id).params == {"options": {"scale": 2}}
    assert store.next_queued().id == second.id
    assert [job.title for job in store.all("ann")] == ["a"]
    third = store.add(Job("upscale", "c", {}))
    store.move_first(third.id)
    assert store.next_queued().id == third.id
    store.close()


def test_a_new_option_becomes_a_widget(monkeypatch):
    from src.ui import widgets

    @dataclasses.dataclass(frozen=True)
    class More(Options):
        sharpness: int = option(3, "how sharp", flags=("--sharpness",), bounds=(0, 9), kind="int", group="model")
        dither: bool = option(False, "dither", flags=("--dither",), kind="flag", group="output")

    monkeypatch.setattr(widgets, "Options", More)
    found = {item.name: item for item in widgets.fields("video")}
    control = widgets.make_widget(found["sharpness"], "video")
    assert (control.label, control.minimum, control.maximum, control.value) == ("Sharpness", 0, 9, 3)
    assert widgets.make_widget(found["dither"], "video").value is False


def test_every_option_is_on_the_page_and_comes_back_as_its_default():
    from src.ui import widgets

    items = widgets.fields("video")
    assert {item.name for item in items} | widgets.ELSEWHERE >= {item.name for item in dataclasses.fields(Options)}
    shown = [widgets.make_widget(item, "video").value for item in items]
    assert widgets.to_values(items, shown) == {}
    assert "fps" not in {item.name for item in widgets.fields("image")}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("has_full", [True, False])
def test_presets_are_valid_options(name, has_full):
    values = preset_values(name, has_full=has_full)
    options = Options(input=SAMPLE, **values)
    assert options.mode != "full" or has_full


def test_facts_and_estimate():
    facts = facts_of(SAMPLE, "video")
    rows = dict(facts.rows)
    assert (rows["Resolution"], rows["Frames"], rows["Audio"]) == ("320 × 180", "50", "aac")
    options = Options(input=SAMPLE, model="nano", scale=2, end=1)
    told = dict(estimate(options, facts, lambda model, mode: []))
    assert (told["Output"], told["Frames"]) == ("640 × 360", "25, 1.0 s")
    assert "not known" in told["Time"]
    told = dict(estimate(options, facts, lambda model, mode: [1.0, 2.0, 3.0]))
    assert told["Time"].startswith(f"about {time_text(2 * 25 * 640 * 360 / 1e6)}")
    for path, media, words in ((SAMPLE, "image", "not a picture"), (Path("nothing.mp4"), "video", "does not exist")):
        with pytest.raises(InputError, match=words):
            facts_of(path, media)
    assert (bytes_text(999), bytes_text(1536), bytes_text(2_400_000)) == ("999 B", "1.5 KB", "2.4 MB")
    assert (time_text(75), time_text(3), time_text(7300)) == ("1:15 min", "3.0 s", "2:01:40")


def test_names_of_results_do_not_collide(tmp_path):
    service = Service(tmp_path / "data")
    try:
        service.settings.save(Settings(str(tmp_path / "out")))
        (tmp_path / "out" / "bbb_320x180_2x.mp4").write_bytes(b"here already")
        jobs = service.submit([SAMPLE, SAMPLE], {"scale": Fraction(2)}, "video", batch=True)
        names = [Path(job.params["options"]["output"]).name for job in jobs]
        assert names == ["bbb_320x180_2x_2.mp4", "bbb_320x180_2x_3.mp4"]
        assert jobs[0].batch == jobs[1].batch != ""
        with pytest.raises(InputError, match="scale"):
            service.submit([SAMPLE], {"scale": 9}, "video")
        with pytest.raises(InputError, match="no file"):
            service.submit([], {}, "video")
        service.act(jobs[0], "cancel")
        assert service.job(jobs[0].id).status == "cancelled"
        service.act(service.job(jobs[0].id), "resume")
        assert service.job(jobs[0].id).status == "queued"
    finally:
        service.close()


def test_an_upload_is_kept_with_its_job_and_goes_with_it(tmp_path):
    service = Service(tmp_path / "data")
    try:
        upload = service.uploads / "abc" / "my clip.mp4"
        upload.parent.mkdir()
        upload.write_bytes(SAMPLE.read_bytes())
        job = service.submit([upload], {}, "video")[0]
        kept = Path(job.params["options"]["input"])
        assert kept.parent == service.jobs_folder / job.id
        upload.unlink()  # as the page's own cleaning does after a day
        assert kept.read_bytes() == SAMPLE.read_bytes()
        again = service.again(job)
        service.remove(job)
        assert not kept.exists()
        assert Path(again.params["options"]["input"]).exists()
    finally:
        service.close()


def test_folders_as_batches(tmp_path):
    for name in ("b.mp4", "a.mkv", "notes.txt", ".hidden.mp4", "p.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in folder_files(tmp_path, "video")] == ["a.mkv", "b.mp4"]
    assert [path.name for path in folder_files(tmp_path, "image")] == ["p.png"]
    with pytest.raises(InputError, match="cannot be read"):
        folder_files(tmp_path / "none", "video")
