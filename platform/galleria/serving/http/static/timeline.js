// What the models say of a video: its events, and the frames that show them.

import { bars, card, made, percent } from "./insights.js";

const MAX_EVENTS = 6;  // on a card

export const clock = (seconds) => {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

export function eventsCard({ result, model, latency_ms }) {
  const sure = result.events.filter((event) => event.over_threshold).map((event) => event.name);
  const verdict = sure.length ? sure.join(", ") : "Nothing that is certain";
  const lines = result.events.slice(0, MAX_EVENTS).map((event) => ({ ...event, strong: event.over_threshold }));
  return card(model.name, verdict, `${model.name} · ${latency_ms.toFixed(0)} ms`, bars(lines));
}

// One bar for each sampled frame, as high as the attention it got; `video` is moved to where one chooses.
export function timelineCard({ result, model }, video) {
  const frames = result.timeline;
  const last = frames.at(-1)?.seconds || 0;
  const step = frames.length > 1 ? last / (frames.length - 1) : 1;
  const peak = Math.max(...frames.map((frame) => frame.attention), 1e-9);
  const keys = new Set(result.key_frames.map((frame) => frame.seconds));
  const chart = made("div", "chart");
  const head = made("span", "playhead");
  const axis = made("div", "axis");
  const columns = frames.map((frame) => {
    const column = made("button", keys.has(frame.seconds) ? "frame key" : "frame");
    column.type = "button";
    column.title = column.ariaLabel = `${clock(frame.seconds)}, attention ${percent(frame.attention)}`;
    column.append(made("span", ""));
    column.firstChild.style.height = `${Math.max(frame.attention / peak * 100, 1)}%`;
    column.addEventListener("click", (event) => {
      event.stopPropagation();
      seek(frame.seconds);
    });
    return column;
  });
  let length;
  const measure = () => {
    length = Number.isFinite(video.duration) ? Math.max(video.duration, last) : last + step;
    columns.forEach((column, index) => {
      column.style.left = `${frames[index].seconds / length * 100}%`;
      column.style.width = `${Math.min(step / length * 100, 100 - frames[index].seconds / length * 100)}%`;
    });
    const tick = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((size) => length / size <= 8) || length;
    axis.replaceChildren(...Array.from({ length: Math.floor(length / tick) + 1 }, (_, index) => {
      const label = made("span", "", clock(index * tick));
      label.style.left = `${index * tick / length * 100}%`;
      return label;
    }).filter((label, index) => index * tick / length < 0.97));
    play();
  };
  const play = () => {
    head.style.left = `${Math.min(video.currentTime / length, 1) * 100}%`;
    const now = frames.findLastIndex((frame) => frame.seconds <= video.currentTime + 0.05);
    columns.forEach((column, index) => column.classList.toggle("now", index === now));
  };
  const seek = (seconds) => {
    video.currentTime = seconds;
    play();  // a format that the browser cannot show is marked all the same
  };
  chart.append(...columns, head);
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * length);
  });
  const following = new AbortController();
  const follow = (name, action) => video.addEventListener(name, action, { signal: following.signal });
  follow("loadedmetadata", measure);
  follow("durationchange", measure);
  follow("timeupdate", play);
  follow("seeking", play);
  follow("emptied", () => following.abort());  // another video replaces it
  measure();
  const moments = made("p", "moments", "Key frames");
  moments.append(...[...result.key_frames].sort((one, other) => one.seconds - other.seconds).map((frame) => {
    const moment = made("button", "", clock(frame.seconds));
    moment.type = "button";
    moment.append(made("span", "share", percent(frame.attention)));
    moment.addEventListener("click", () => seek(frame.seconds));
    return moment;
  }));
  const article = card(`Attention over time, ${model.name}`, "", "", chart, axis, moments);
  article.classList.add("timeline");
  return article;
}
