// Before/after view for a picture or a video: a divider to drag, zoom, and two videos that show the same frame.

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Drawn, not written: the fonts of many systems have no such letters.
const ICONS = {
  play: "M4 2l10 6-10 6z",
  pause: "M3 2h4v12H3zM9 2h4v12H9z",
  back: "M13 2v12L5 8zM3 2h2v12H3z",
  on: "M3 2v12l8-6zM11 2h2v12h-2z",
  full: "M2 2h5v2H4v3H2zM9 2h5v5h-2V4H9zM2 9h2v3h3v2H2zM12 9h2v5H9v-2h3z",
};
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

// before, after: addresses; rate: frames per second, 0 for a picture; width, height: pixels of the result.
export function makeCompare({ before, after, rate, width, height, title }) {
  const isVideo = rate > 0;
  const medium = (src, label) =>
    isVideo
      ? el("video", { src, playsinline: true, preload: "auto", loop: true, "aria-label": label, tabindex: "-1" })
      : el("img", { src, alt: label, draggable: "false" });
  const one = medium(before, `Before: ${title}`);
  const two = medium(after, `After: ${title}`);
  const moves = [el("div", { class: "fv-move" }, one), el("div", { class: "fv-move" }, two)];
  const right = el("div", { class: "fv-layer" }, moves[1]);
  const line = el("div", { class: "fv-line" }, el("div", { class: "fv-handle", "aria-hidden": "true" }, "⇔"));
  const stage = el(
    "div",
    { class: "fv-stage", style: `aspect-ratio: ${width} / ${height}` },
    el("div", { class: "fv-layer" }, moves[0]),
    right,
    line,
    el("span", { class: "fv-tag fv-tag-left", "aria-hidden": "true" }, "Before"),
    el("span", { class: "fv-tag fv-tag-right", "aria-hidden": "true" }, "After"),
  );
  const wipe = el("input", {
    type: "range", class: "fv-wipe", min: 0, max: 100, step: 0.5, value: 50,
    "aria-label": "Divider between before and after",
  });
  const root = el("div", { class: "fv-compare", role: "group", "aria-label": `Before and after of ${title}` });

  const view = { zoom: 1, x: 0, y: 0 };
  const show = () => {
    const box = stage.getBoundingClientRect();
    const limit = (value, size) => Math.min(0, Math.max(size * (1 - view.zoom), value));
    view.x = limit(view.x, box.width);
    view.y = limit(view.y, box.height);
    for (const move of moves) move.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    stage.classList.toggle("fv-zoomed", view.zoom > 1);
    zoomText.textContent = `${Math.round(view.zoom * 100)} %`;
  };
  const divide = (percent) => {
    const value = Math.min(100, Math.max(0, percent));
    wipe.value = value;
    line.style.left = `${value}%`;
    right.style.clipPath = `inset(0 0 0 ${value}%)`;
  };
  const zoomTo = (zoom, cx, cy) => {
    const box = stage.getBoundingClientRect();
    const px = cx ?? box.width / 2;
    const py = cy ?? box.height / 2;
    const factor = zoom / view.zoom;
    view.x = px - (px - view.x) * factor;
    view.y = py - (py - view.y) * factor;
    view.zoom = zoom;
    show();
  };
  const zoomStep = (by, cx, cy) => {
    const at = ZOOMS.findIndex((zoom) => zoom >= view.zoom - 1e-6);
    zoomTo(ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, at + by))], cx, cy);
  };

  wipe.addEventListener("input", () => divide(Number(wipe.value)));
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const pan = view.zoom > 1 && !event.target.closest(".fv-line");
    drag = { pan, x: event.clientX, y: event.clientY };
    stage.setPointerCapture(event.pointerId);
    if (!pan) divideAt(event);
    event.preventDefault();
  });
  const divideAt = (event) => {
    const box = stage.getBoundingClientRect();
    divide((100 * (event.clientX - box.left)) / box.width);
  };
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    if (drag.pan) {
      view.x += event.clientX - drag.x;
      view.y += event.clientY - drag.y;
      drag.x = event.clientX;
      drag.y = event.clientY;
      show();
    } else divideAt(event);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (drag = null));
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && view.zoom === 1) return; // the page scrolls
    event.preventDefault();
    zoomStep(event.deltaY < 0 ? 1 : -1, ...at(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => zoomTo(view.zoom > 1 ? 1 : 3, ...at(event)));

  const button = (text, label, action) =>
    el("button", { type: "button", class: "fv-small", "aria-label": label, title: label, onclick: action }, ICONS[text] ? icon(text) : text);
  const zoomText = el("span", { class: "fv-zoomtext", "aria-live": "polite" }, "100 %");
  const tools = el("div", { class: "fv-tools" });
  if (isVideo) tools.append(...videoTools(one, two, rate, button));
  tools.append(
    el("span", { class: "fv-space" }),
    button("−", "Zoom out", () => zoomStep(-1)),
    zoomText,
    button("+", "Zoom in", () => zoomStep(1)),
    button("full", "Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen())),
  );
  root.append(stage, wipe, tools);
  divide(50);
  const resized = new ResizeObserver(show);
  resized.observe(stage);
  return root;
}

// Buttons and the timeline of two videos; the second one leads, the first one follows it frame by frame.
function videoTools(follower, leader, rate, button) {
  follower.muted = true;
  const play = button("play", "Play", () => (leader.paused ? leader.play() : leader.pause()));
  const seek = el("input", { type: "range", class: "fv-seek", min: 0, max: 1, step: "any", value: 0, "aria-label": "Time" });
  const time = el("span", { class: "fv-time" }, "0");
  const frame = () => Math.floor(leader.currentTime * rate + 1e-3);
  const last = () => Math.max(0, Math.round((leader.duration || 0) * rate) - 1);
  // The middle of a frame: rounding can then never show its neighbour.
  const go = (number) => {
    const to = (Math.min(last(), Math.max(0, number)) + 0.5) / rate;
    leader.currentTime = to;
    follower.currentTime = to;
  };
  const write = () => {
    if (document.activeElement !== seek || leader.paused === false) seek.value = leader.currentTime;
    time.textContent = `frame ${Math.min(frame(), last()) + 1} / ${last() + 1}`;
  };
  const follow = (_, data) => {
    const now = data ? data.mediaTime : leader.currentTime;
    if (Math.abs(follower.currentTime - now) > 0.75 / rate) follower.currentTime = now + 0.1 / rate;
    write();
    if (!leader.paused) again();
  };
  const again = () =>
    leader.requestVideoFrameCallback
      ? leader.requestVideoFrameCallback(follow)
      : requestAnimationFrame(() => follow());
  leader.addEventListener("loadedmetadata", () => {
    seek.max = leader.duration;
    go(0);
  });
  leader.addEventListener("play", () => {
    follower.currentTime = leader.currentTime;
    follower.play().catch(() => {}); // a player without the input's format shows the result alone
    play.replaceChildren(icon("pause"));
    play.setAttribute("aria-label", "Pause");
    again();
  });
  leader.addEventListener("pause", () => {
    follower.pause();
    play.replaceChildren(icon("play"));
    play.setAttribute("aria-label", "Play");
    go(frame());
  });
  leader.addEventListener("seeked", write);
  leader.addEventListener("timeupdate", write);
  seek.addEventListener("input", () => {
    leader.pause();
    go(Math.floor(Number(seek.value) * rate + 1e-3));
  });
  const step = (by) => () => {
    leader.pause();
    go(frame() + by);
  };
  return [play, button("back", "One frame back", step(-1)), button("on", "One frame on", step(1)), seek, time];
}
