// The page shows what the box said last, and only while the box goes on saying it.
// Text from the box is set as text, never as markup.
"use strict";

const SILENCE_MS = 2000;  // without news for longer, nothing on the page is current
const LOOK_MS = 250;
const PICTURE_MS = 5000;  // one that takes longer is given up
const DRIFT = 0.001;      // two clocks part by less than this; a queue of old news by more
const at = (id) => document.getElementById(id);
const text = (id, value) => { const place = at(id); if (place.textContent !== value) place.textContent = value; };

let source = null, opened = 0, boot = null, number = 0, decided = null;
let heard = null;         // when the last news came, on both clocks of this machine
let ahead = Infinity;     // the least distance of this machine's clock to the box's: news without delay
let loading = null, pictured = -Infinity;

const now = () => [performance.now(), Date.now()];
const since = (then) => then === null ? Infinity : Math.max(...now().map((value, clock) => Math.abs(value - then[clock])));

function connect() {
  if (source) source.close();
  opened = performance.now();
  ahead = Infinity;
  source = new EventSource("/events");
  source.onmessage = (message) => {
    try { hear(JSON.parse(message.data)); } catch (error) { lost("The page failed: " + error); throw error; }
  };
}

function hear(news) {
  if (boot !== null && news.boot !== boot) return location.reload();  // another box's start: perhaps another page
  if (news.boot === boot && news.number <= number) return;
  const offset = performance.now() - news.at_s * 1000;
  ahead = Math.min(offset, ahead + DRIFT * Math.min(since(heard), SILENCE_MS));
  boot = news.boot;
  number = news.number;
  if (offset - ahead > SILENCE_MS) return;  // it waited on the way: old news
  heard = now();
  show(news);
  document.documentElement.dataset.contact = "live";
}

function lost(why) {
  document.documentElement.dataset.contact = "lost";
  at("headline").dataset.kind = "lost";
  text("word", "NO CONTACT");
  text("detail", why);
  text("contact", "no contact");
  document.title = "NO CONTACT";
}

function watch() {
  const silent = since(heard);
  if (silent <= SILENCE_MS) return;
  const ever = heard === null ? "The page has not heard from the box yet." : `The box has said nothing for ${Math.floor(silent / 1000)} s. What stands below is old.`;
  lost(ever + " Look at the box itself, its power and the network.");
  if (performance.now() - opened > SILENCE_MS) connect();
}

function show(news) {
  at("headline").dataset.kind = news.headline.kind;
  text("word", news.headline.word);
  text("detail", news.headline.detail);
  text("contact", "live");
  document.title = `${news.headline.word}: ${news.line}`;
  text("line", news.line);
  text("model", news.model);
  text("certificate", news.certificate || "not certified");
  text("uptime", `up ${news.uptime}`);
  text("triggers", String(news.triggers));
  text("late", String(news.late));
  for (const [state, count] of Object.entries(news.states)) text(state, String(count));
  text("share", news.reject_share === null ? "–" : `${(100 * news.reject_share).toFixed(2)} %`);
  rows("lights", "li", news.lights, (row, light) => {
    row.dataset.state = light.state;
    row.replaceChildren(made("b", light.name), made("span", light.words), ...(light.advice ? [made("small", light.advice)] : []));
  });
  rows("rejected", "tr", news.rejects, (row, one) => {
    const state = made("td", one.state.replace("_", " "));
    state.dataset.state = one.state;
    row.replaceChildren(made("td", one.part), state, made("td", one.why, "why"), made("td", `${one.ago} ago`, "tight"));
  });
  rows("stages", "div", Object.entries(news.stages), (row, [name, [p50, p99]]) => {
    row.replaceChildren(made("b", p50 === null ? "–" : `${p50.toFixed(1)} ms`), p99 === null ? name : `${name}, p99 ${p99.toFixed(1)}`);
  });
  const causes = Object.entries(news.causes).map(([cause, count]) => `${cause.replace("_", "-")} ${count}`);
  text("causes", causes.length ? `No decision: ${causes.join(", ")}` : "");
  picture(news.triggers - news.open);
}

function made(kind, value, name = "") {
  const element = document.createElement(kind);
  element.textContent = value;
  element.className = name;
  return element;
}

function rows(id, kind, values, fill) {
  const key = JSON.stringify(values), place = at(id);
  if (place.said === key) return;
  place.said = key;
  place.replaceChildren(...values.map((value) => { const row = document.createElement(kind); fill(row, value); return row; }));
}

function picture(count) {  // once a second at most, and one at a time
  const age = performance.now() - pictured;
  if (count === decided || age < (loading ? PICTURE_MS : 1000)) return;
  const next = new Image();
  decided = count;
  pictured = performance.now();
  loading = next;
  const settle = (shown) => {
    if (loading !== next) return;  // given up
    loading = null;
    next.id = "picture";
    next.alt = at("picture").alt;
    next.hidden = !shown;
    at("picture").replaceWith(next);
    text("caption", shown ? "last judged part; what looks like a defect is coloured" : "no picture");
  };
  next.onload = () => settle(true);
  next.onerror = () => settle(false);
  next.src = `/picture?${count}`;
}

async function ask(address, body) {
  for (const button of document.querySelectorAll("#more button")) button.disabled = true;
  text("said", "under way …");
  at("said").className = "";
  let answer = {};
  try {
    const response = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    answer = await response.json();
    if (response.status === 401) signed(false);
  } catch (error) {
    answer = { error: "the box does not answer" };
  }
  text("said", answer.error || answer.said || "");
  at("said").className = answer.error ? "bad" : "";
  for (const button of document.querySelectorAll("#more button")) button.disabled = false;
  return answer;
}

function signed(yes) {
  at("login").hidden = yes;
  at("actions").hidden = !yes;
}

at("login").onsubmit = async (event) => {
  event.preventDefault();
  const token = at("token").value;
  at("token").value = "";
  signed((await ask("/login", { token })).signed_in === true);
};
at("logout").onclick = async () => { await ask("/logout", {}); signed(false); };
at("switch").onsubmit = (event) => { event.preventDefault(); ask("/actions/switch_bundle", { path: at("path").value }); };
for (const button of document.querySelectorAll("[data-action]")) button.onclick = () => ask(`/actions/${button.dataset.action}`, {});

fetch("/session").then((response) => response.json()).then((answer) => signed(answer.signed_in)).catch(() => signed(false));
document.addEventListener("visibilitychange", watch);
setInterval(watch, LOOK_MS);
connect();
