// Asks for the state of the jobs once a second (less often when nothing runs) and keeps the page up to date.
import { el } from "./compare.js";
import { bytes, card, panel, queueRow, setText, update } from "./jobs.js";

const state = { version: "", jobs: [], progress: null, local: true, monitor: null, chosen: {}, failed: 0, theme: window.flashvsrTheme };
const EMPTY = {
  video: "Your result appears here: drop a clip, choose a preset, press Upscale.",
  image: "Your result appears here: drop a picture, choose a preset, press Upscale.",
  toolbox: "The result of the chain appears here.",
  download: "A running download appears here.",
};
const TABS = { video: "Video", image: "Image", toolbox: "Toolbox", download: "Settings" };
const busy = () => state.jobs.some((job) => job.status === "running" || job.status === "queued");

async function poll() {
  try {
    const answer = await fetch(`app/state?since=${state.version}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const found = await answer.json();
    state.version = found.version;
    state.jobs = found.jobs || state.jobs;
    state.progress = found.progress || null;
    state.monitor = found.monitor;
    state.local = found.local;
    if (found.theme !== state.theme) theme((state.theme = found.theme));
    state.failed = 0;
  } catch (error) {
    state.failed += 1;
  }
  draw();
}

let timer = 0;
function schedule() {
  clearTimeout(timer);
  // A page that nobody looks at asks rarely.
  const wait = document.hidden ? 15000 : state.failed > 2 ? 5000 : busy() ? 1000 : 2000;
  timer = setTimeout(async () => {
    await poll();
    schedule();
  }, wait);
}
async function refresh() {
  clearTimeout(timer);
  await poll();
  schedule();
}

// The job that a tab shows: the one picked by the user, the running one, or the newest.
function current(media) {
  const own = state.jobs.filter((job) => job.media === media);
  return own.find((job) => job.id === state.chosen[media]) || own.find((job) => job.status === "running")
    || [...own].reverse().find((job) => job.status === "queued") || own[0];
}

function waitingBefore(job) {
  return state.jobs.filter((other) => other.status === "running" || (other.status === "queued" && other.created < job.created)).length;
}

function drawLive(media) {
  const place = document.getElementById(`live-${media}`);
  if (!place) return;
  const job = current(media);
  const key = job ? `${job.id} ${job.status} ${state.local}` : "none";
  if (place.dataset.key !== key) {
    place.dataset.key = key;
    place.replaceChildren(job ? panel(job, state.local) : el("p", { class: "fv-empty" },
      EMPTY[media]));
  }
  if (job) update(place, job, state.progress, waitingBefore(job));
}

function drawList(id, jobs, make, empty) {
  const place = document.getElementById(id);
  if (!place) return;
  const key = jobs.map((job) => `${job.id} ${job.status}`).join() || "none";
  if (place.dataset.key !== key) {
    place.dataset.key = key;
    const nodes = [];
    let batch = "";
    for (const job of jobs) {
      if (job.batch && job.batch !== batch) nodes.push(batchHead(job.batch));
      batch = job.batch;
      nodes.push(make(job, state.local));
    }
    place.replaceChildren(...(nodes.length ? nodes : [el("li", { class: "fv-empty" }, empty)]));
  }
  for (const job of jobs) {
    const node = place.querySelector(`[data-job="${job.id}"]`);
    if (node) update(node, job, state.progress, waitingBefore(job));
  }
}

function batchHead(batch) {
  const own = state.jobs.filter((job) => job.batch === batch);
  const count = (status) => own.filter((job) => job.status === status).length;
  const words = [`${count("done")} of ${own.length} done`];
  if (count("failed")) words.push(`${count("failed")} failed`);
  return el("li", { class: "fv-batch" }, el("strong", {}, `Batch of ${own.length} files`), ` · ${words.join(" · ")}`);
}

function drawMonitor() {
  const place = document.getElementById("fv-monitor");
  if (!place || !state.monitor) return;
  const load = state.monitor;
  const words = [`CPU ${Math.round(load.cpu)} %`, `RAM ${bytes(load.ram_used)} of ${bytes(load.ram_total)}`];
  for (const gpu of load.gpus) words.push(`${gpu.name} ${gpu.load} %, ${bytes(gpu.used)} of ${bytes(gpu.total)}`);
  setText(place, state.failed > 2 ? "The program does not answer. Is it still running?" : words.join("  ·  "));
  place.classList.toggle("fv-lost", state.failed > 2);
}

function draw() {
  const waiting = state.jobs.filter((job) => job.status === "running" || job.status === "queued");
  drawLive("video");
  drawLive("image");
  drawLive("download");
  drawLive("toolbox");
  drawList("fv-queue", [...waiting].reverse(), queueRow, "Nothing is waiting.");
  drawList("fv-history", state.jobs.filter((job) => !waiting.includes(job)), card, "Finished jobs appear here.");
  drawMonitor();
  const running = state.progress && state.progress.expected ? Math.round((100 * (state.progress.frames || 0)) / state.progress.expected) : null;
  document.title = running === null ? "FlashVSR+" : `${running} % · FlashVSR+`;
}

function toast(text) {
  const box = document.getElementById("fv-toast") || document.body.appendChild(el("div", { id: "fv-toast", role: "alert" }));
  box.textContent = text;
  box.classList.add("fv-shown");
  clearTimeout(box.timer);
  box.timer = setTimeout(() => box.classList.remove("fv-shown"), 8000);
}

const openTab = (name) => {
  const tab = [...document.querySelectorAll('button[role="tab"]')].find((one) => one.textContent.trim() === name);
  if (tab) tab.click();
};

async function act(button) {
  const { action, job } = button.dataset;
  const known = state.jobs.find((one) => one.id === job);
  if (action === "view") {
    state.chosen[known.media] = job;
    openTab(TABS[known.media]);
    draw();
    return;
  }
  if (action === "remove" && !confirm(`Remove ${known ? known.title : "this job"} from the list? The result file stays.`)) return;
  button.disabled = true;
  try {
    const answer = await fetch(`app/jobs/${job}/${action}`, { method: "POST", headers: { "x-flashvsr": "1" } });
    const found = await answer.json();
    if (!answer.ok) toast(found.error || `the server answered ${answer.status}`);
    else if (action === "toolbox") openTab("Toolbox");
    else if (action === "open") toast("The folder is open in the file manager.");
    else if (action === "again" || action === "resume") state.chosen = {};
    if (answer.ok && action === "export") toast("The comparison is in the queue; it will be in the history.");
  } catch (error) {
    toast(`The program does not answer (${error.message}).`);
  }
  button.disabled = false;
  await refresh();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button);
  else if (event.target.closest('button[role="tab"]')) setTimeout(draw, 60);
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());

function theme(name) {
  const dark = name === "dark" || (name === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.body.classList.toggle("dark", dark);
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
}

window.flashvsr = {
  refresh,
  theme,
  started: () => {
    state.chosen = {};
    refresh();
  },
};
// Gradio draws the page after this script has run, and a tab when it is first opened.
new MutationObserver(() => draw()).observe(document.body, { childList: true, subtree: false });
const waitForPage = setInterval(() => {
  if (!document.getElementById("fv-monitor")) return;
  clearInterval(waitForPage);
  draw();
}, 50);
theme(window.flashvsrTheme);
refresh();
