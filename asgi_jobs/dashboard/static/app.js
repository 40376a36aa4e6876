// Asks for the same page again and puts what changed into place. Everything works without this file.
"use strict";
const root = document.documentElement;
const store = (name, value) => {
  try { return value ? localStorage.setItem(name, value) : localStorage.getItem(name); } catch { return null; } // forbidden
};
const theme = (choice) => { root.dataset.theme = choice || "system"; };
theme(store("asgi_jobs.theme")); // before the first paint

const FLOOR = 2, LONGEST = 60;
const $ = (query, from = document) => from.querySelector(query);
const all = (query, from = document) => [...from.querySelectorAll(query)];
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; }; // else it is read aloud again
let skew = 0, failures = 0, seen = Date.now(), timer, asking, nextTry, why;
const now = () => Date.now() + skew;

// Time, worded as in words.py
const whole = Math.floor;
const pair = (s, size, unit, small, word) => {
  const rest = whole(s % size / small);
  return `${whole(s / size)} ${unit}${rest ? ` ${rest} ${word}` : ""}`;
};
const lasting = (ms) => {
  const s = Math.max(whole(ms / 1000), 0);
  return s < 60 ? s + " s" : s < 3600 ? pair(s, 60, "min", 1, "s") : s < 86400 ? pair(s, 3600, "h", 60, "min") : pair(s, 86400, "d", 3600, "h");
};
const coarse = (ms) => lasting(ms < 60000 ? ms : ms - ms % 60000);
const said = { up: lasting, ago: (d) => coarse(d) + " ago", in: (d) => d < 0 ? "in " + coarse(-d) : "due now" };
const clock = (ms) => new Date(ms).toISOString().slice(11, 19);
function tick() {
  for (const time of all("time[data-t]")) {
    const then = Date.parse(time.dateTime), words = said[time.dataset.t]?.(now() - then);
    time.title ||= new Date(then).toLocaleString();
    if (words) put(time, words);
  }
  if (failures) away();
}

// Swapping: nodes stay, and with them focus, scroll, selection, open details, half-typed text
const idOf = (node) => node?.getAttribute?.("id"); // a form's .id is its field of that name
const kept = { DETAILS: "open", TIME: "title" };
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType !== 1) { old.data = fresh.data; return; }
  const keep = kept[old.nodeName];
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== keep) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== keep && old.getAttribute(name) !== value) old.setAttribute(name, value);
  const byId = new Map([...old.children].filter(idOf).map((child) => [idOf(child), child]));
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const id = idOf(child), same = id ? byId.get(id) : idOf(at) ? null : at;
    if (same) {
      byId.delete(id);
      if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
      morph(same, child);
    } else {
      if (id && child.nodeName === "TR") child.classList.add("new");
      old.insertBefore(child, at);
    }
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}
const busy = (region) => $("details.confirm[open]", region) || region.contains(getSelection().anchorNode) && !getSelection().isCollapsed;
const saying = () => all("[data-say]").map((item) => item.dataset.say);
function swap(page) {
  const before = saying(), regions = all("[data-region]"), name = (list) => list.map((r) => r.dataset.region).join();
  if (name(regions) !== name(all("[data-region]", page))) {
    if (busy(document.body)) return false;
    $("#main").replaceChildren(...$("#main", page).childNodes);
  }
  let done = true;
  for (const region of all("[data-region]")) {
    const fresh = $(`[data-region="${region.dataset.region}"]`, page);
    if (!fresh) continue;
    if (busy(region)) done = false; else morph(region, fresh);
  }
  document.title = page.title;
  $("link[rel=icon]").href = $("link[rel=icon]", page).href;
  const worse = saying().filter((text) => !before.includes(text));
  if (worse[0]) $("#said").textContent = worse.join(". ");
  count();
  return done;
}

// Asking
const every = () => { const s = +$("#every").value; return s && Math.max(s, FLOOR); };
function later(seconds) {
  clearTimeout(timer);
  if (seconds && !document.hidden) { nextTry = Date.now() + seconds * 1000; timer = setTimeout(ask, seconds * 1000); }
}
async function ask() {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch(location.href.split("#")[0], {
      headers: { Accept: "text/html", "If-None-Match": root.dataset.etag }, cache: "no-store", signal: AbortSignal.timeout(15000),
    });
    if (answer.status !== 304) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (![200, 404].includes(answer.status) || !$("[data-region]", page)) throw page;
      // what waits for an open question is asked for again
      root.dataset.etag = swap(page) && answer.headers.get("etag") || "";
    }
    failures = 0; seen = Date.now();
    $("#away").replaceChildren();
    const time = $("#clock time");
    time.dateTime = new Date(now()).toISOString();
    time.textContent = clock(now());
  } catch (page) {
    failures++;
    why = page.body && $("h1", page)?.textContent || "No answer from the server";
  }
  asking = false;
  tick();
  later(failures ? Math.min(Math.max(every(), FLOOR) * 2 ** failures, LONGEST) : every());
}
function away() {
  const bar = $("#away");
  if (!bar.firstChild) {
    bar.innerHTML = '<div class="notice is-bad"><svg class="i" aria-hidden="true"><use href="#i-warn"/></svg><p><b role="alert"></b> <span></span></p><button class="btn" type="button">Try now</button></div>';
    $("button", bar).onclick = ask;
  }
  put($("b", bar), `${why} since ${clock(seen + skew)}.`);
  $("span", bar).textContent = `What you see is ${lasting(Date.now() - seen)} old. Next try in ${lasting(nextTry - Date.now())}.`;
}

// Choosing
function count() {
  const boxes = all('.pick [name="id"]'), ticked = boxes.filter((box) => box.checked).length, every = $(".pick .all");
  if (!every) return;
  every.checked = ticked && ticked === boxes.length;
  every.indeterminate = ticked && ticked < boxes.length;
  $("#n").textContent = ticked + " selected";
}

addEventListener("DOMContentLoaded", () => {
  skew = Date.parse(root.dataset.now) - Date.now();
  const interval = store("asgi_jobs.every");
  if (interval && all("#every option").some((choice) => choice.value === interval)) $("#every").value = interval;
  $("#every").onchange = (event) => { store("asgi_jobs.every", event.target.value); later(every()); };
  $("#theme").value = root.dataset.theme;
  $("#theme").onchange = (event) => { store("asgi_jobs.theme", event.target.value); theme(event.target.value); };
  const here = new URL(location.href);
  if (here.searchParams.has("did")) {
    for (const name of ["did", "n", "skipped"]) here.searchParams.delete(name);
    history.replaceState(null, "", here);
    root.dataset.etag = "";
  }
  const on = (name, act) => document.addEventListener(name, act);
  on("visibilitychange", () => document.hidden ? clearTimeout(timer) : every() && ask());
  on("change", (event) => {
    if (event.target.matches(".pick .all")) for (const box of all('.pick [name="id"]')) box.checked = event.target.checked;
    count();
  });
  const close = (but) => { for (const item of all("details.confirm[open]")) item.open = item === but; };
  on("click", (event) => close(event.target.closest("details.confirm")));
  on("keydown", (event) => {
    if (event.key === "Escape") {
      const open = $("details.confirm[open]");
      if (open) { close(); $("summary", open).focus(); }
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "/" && $("#q")) { event.preventDefault(); $("#q").focus(); }
    if (event.key === "r") ask();
    if (event.key === "?") { $("#help").open = true; $("#help summary").focus(); }
  });
  $("#said").textContent = $("#flash p")?.textContent || "";
  count(); tick(); setInterval(tick, 1000); later(every());
});
