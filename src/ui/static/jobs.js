// What a job looks like: the live panel of a tab, a row of the queue, a card of the history.
import { el, makeCompare } from "./compare.js";

export const media = (job, name, extra = "") => `app/media/${job.id}/${name}${extra}`;
const WORDS = {
  queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled", interrupted: "interrupted",
};

export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  const whole = Math.round(value);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const text = parts.slice(parts[0] ? 0 : 1).map((part, index) => (index ? String(part).padStart(2, "0") : part));
  return text.join(":") + (parts[0] ? " h" : " min");
}

export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < 4) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${["B", "KB", "MB", "GB", "TB"][unit]}`;
}

const button = (job, action, text, kind = "") =>
  el("button", { type: "button", class: `fv-button ${kind}`, "data-action": action, "data-job": job.id }, text);
const save = (job, text = "Save") =>
  el("a", { class: "fv-button fv-primary", href: media(job, "path", "?download"), download: job.result.name || "" }, text);
const badge = (job) => el("span", { class: `fv-badge fv-${job.status}` }, WORDS[job.status]);

function row(name, value) {
  return value ? [el("dt", {}, name), el("dd", {}, value)] : [];
}

export function optionText(job) {
  const parts = Object.entries(job.options).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  return parts.length ? parts.join(", ") : "default options";
}

function facts(job) {
  const done = job.result;
  if (!done.width) return null;
  const speed = done.seconds ? `${seconds(done.seconds)} (${(done.frames / done.seconds).toFixed(2)} frames per second)` : "";
  return el(
    "dl", { class: "fv-facts" },
    row("File", done.name), row("Size", `${done.width} × ${done.height}${done.bytes ? `, ${bytes(done.bytes)}` : ""}`),
    row("Frames", done.frames > 1 ? `${done.frames}${done.rate ? ` at ${Number(done.rate.toFixed(3))} per second` : ""}` : ""),
    row("Time", speed), row("Model", done.model ? `${done.model} on ${done.device}` : ""),
    row("Memory", done.peak_memory ? `${bytes(done.peak_memory)} at most` : ""), row("Options", job.kind === "upscale" ? optionText(job) : ""),
    (done.notes || []).flatMap((note) => row("Note", note)),
  );
}

function ended(job, local) {
  const can = { again: ["Run again"], resume: ["Resume", "fv-primary"], remove: ["Remove"] };
  const shown = { failed: ["again", "remove"], cancelled: ["resume", "remove"], interrupted: ["resume", "remove"] }[job.status];
  return [
    el("p", { class: `fv-note fv-note-${job.status}`, role: "status" }, el("strong", {}, `${WORDS[job.status]}. `), job.error),
    el("div", { class: "fv-actions" }, shown.map((action) => button(job, action, ...can[action]))),
  ];
}

function player(job) {
  const done = job.result;
  if (done.rows) {
    return el("table", { class: "fv-table" }, el("tbody", {},
      done.rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))));
  }
  if (!done.name) return null;
  if (done.tool_kind === "animation" || /\.(png|jpe?g|webp|gif)$/i.test(done.name)) {
    return el("img", { class: "fv-player", src: media(job, "path"), alt: done.name });
  }
  if (done.tool_kind === "frames") return null;
  return el("video", { class: "fv-player", src: media(job, done.playable ? "after" : "path"), controls: true });
}

function finished(job, local) {
  const done = job.result;
  const compare = done.compare
    ? makeCompare({
        before: media(job, "before"), after: media(job, "after"), rate: done.rate || 0,
        width: done.width, height: done.height, title: job.title,
      })
    : player(job);
  return [
    compare,
    el(
      "div", { class: "fv-actions" },
      done.name ? save(job) : null,
      done.compare ? button(job, "export", "Export side by side") : null,
      button(job, "again", "Run again"),
      done.name && job.kind !== "export" ? button(job, "toolbox", "Send to toolbox") : null,
      local && done.name ? button(job, "open", "Open folder") : null,
    ),
    facts(job),
  ];
}

function working(job) {
  return [
    el("div", { class: "fv-bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
      el("div", { class: "fv-fill" })),
    el("p", { class: "fv-line-text", role: "status" }, " "),
    el("div", { class: "fv-actions" },
      job.status === "running" ? button(job, "pause", "Pause") : button(job, "first", "Do this next"),
      button(job, "cancel", "Cancel", "fv-danger")),
    el("div", { class: "fv-previews", hidden: true },
      el("figure", {}, el("img", { class: "fv-in", alt: "Input frame" }), el("figcaption", {}, "Input")),
      el("figure", {}, el("img", { class: "fv-out", alt: "Upscaled frame" }), el("figcaption", { class: "fv-what" }, "Result"))),
  ];
}

export function panel(job, local) {
  const active = job.status === "running" || job.status === "queued";
  const body = active ? working(job) : job.status === "done" ? finished(job, local) : ended(job, local);
  return el("article", { class: "fv-job", "data-job": job.id },
    el("header", {}, el("h3", {}, job.title), badge(job)), body);
}

// Brings the moving parts of a panel or a row up to date.
export function update(node, job, progress, ahead) {
  const own = progress && progress.job === job.id ? progress : null;
  const fill = node.querySelector(".fv-fill");
  if (!fill) return;
  const loading = own && own.bytes_expected && !own.frames;
  const [done, total] = loading ? [own.bytes, own.bytes_expected] : own ? [own.frames || 0, own.expected || 0] : [0, 0];
  const percent = total ? Math.min(100, (100 * done) / total) : 0;
  fill.style.width = `${percent}%`;
  fill.classList.toggle("fv-unknown", Boolean(own && !total));
  fill.parentElement.setAttribute("aria-valuenow", Math.round(percent));
  const words = [];
  if (job.status === "queued") words.push(ahead ? `waiting, ${ahead} before it` : "next in line");
  if (own && own.frames) {
    if (own.unit !== "%") words.push(`${own.frames}${own.expected ? ` of ${own.expected}` : ""} frames`);
    if (own.fps) words.push(`${own.fps.toFixed(own.fps < 10 ? 2 : 1)} FPS`);
    if (own.eta && !own.paused) words.push(`${seconds(own.eta)} left`);
  }
  if (loading) words.push(`${bytes(own.bytes)} of ${bytes(own.bytes_expected)}`);
  if (own && own.message) words.push(own.message);
  setText(node.querySelector(".fv-line-text"), words.join(" · "));
  const pause = node.querySelector('[data-action="pause"], [data-action="resume"]');
  if (pause && own) {
    pause.dataset.action = own.paused ? "resume" : "pause";
    setText(pause, own.paused ? "Go on" : "Pause");
  }
  const previews = node.querySelector(".fv-previews");
  if (previews && own && own.preview && previews.dataset.number !== String(own.preview)) {
    previews.dataset.number = own.preview;
    previews.hidden = false;
    node.querySelector(".fv-in").src = media(job, "preview_in", `?${own.preview}`);
    node.querySelector(".fv-out").src = media(job, "preview_out", `?${own.preview}`);
    setText(node.querySelector(".fv-what"), `Result, frame ${own.preview_frame + 1}`);
  }
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const thumb = (job) =>
  job.thumb ? el("img", { class: "fv-thumb", src: media(job, "thumb"), alt: "", loading: "lazy" }) : el("div", { class: "fv-thumb" });

export function queueRow(job) {
  const [bar, text, actions] = working(job);
  return el("li", { class: "fv-row", "data-job": job.id },
    el("div", { class: "fv-grow" }, el("header", {}, el("strong", {}, job.title), badge(job)), bar, text), actions);
}

export function card(job, local) {
  const done = job.result;
  const words = job.status === "done" && done.width
    ? `${done.width} × ${done.height}${done.frames > 1 ? `, ${done.frames} frames` : ""}` : job.error;
  const again = ["interrupted", "cancelled"].includes(job.status) ? button(job, "resume", "Resume") : button(job, "again", "Run again");
  return el("li", { class: "fv-card", "data-job": job.id },
    thumb(job),
    el("div", { class: "fv-grow" },
      el("header", {}, el("strong", {}, job.title), badge(job)),
      el("p", { class: "fv-dim" }, words || ""),
      el("p", { class: "fv-dim" }, `${new Date(job.created * 1000).toLocaleString()}${job.kind === "upscale" ? ` · ${optionText(job)}` : ""}`),
      el("div", { class: "fv-actions" },
        job.status === "done" && job.media ? button(job, "view", "View") : null,
        job.status === "done" && done.name ? el("a", { class: "fv-button", href: media(job, "path", "?download"), download: done.name }, "Save") : null,
        again, button(job, "remove", "Remove"))));
}
