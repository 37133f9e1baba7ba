// Before and after: a slider, flicker (F), the mask's outline (M), the defect close up (Z).
// Accept and reject (A, R) press the page's own buttons, so that there is one way to decide.
const find = (selector) => element.querySelector(selector);
let ticking = null, zoomed = true, outlined = false, asked = 0;

function split(share) {
  find("img.after").style.clipPath = `inset(0 0 0 ${share}%)`;
  find(".edge").style.left = `${share}%`;
  find(".edge").hidden = share <= 0 || share >= 100;
}

function frame() {
  const value = props.value, stage = find(".stage"), inner = find(".inner");
  if (!value || !value.after) return;
  const room = stage.parentElement.getBoundingClientRect();
  const [left, top, width, height] = zoomed && value.box ? value.box : [0, 0, value.width, value.height];
  const space = Math.max(240, window.innerHeight - room.top - window.scrollY - 272);
  const scale = Math.min((room.width - 4) / width, space / height, 12);
  stage.style.width = `${Math.round(width * scale)}px`;
  stage.style.height = `${Math.round(height * scale)}px`;
  find(".compare").style.width = stage.style.width;
  inner.style.width = `${value.width * scale}px`;
  inner.style.height = `${value.height * scale}px`;
  inner.style.left = `${-left * scale}px`;
  inner.style.top = `${-top * scale}px`;
  find("[data-act=zoom]").classList.toggle("on", zoomed && Boolean(value.box));
  find("[data-act=zoom]").disabled = !value.box;
}

function flicker(on) {
  clearInterval(ticking);
  ticking = null;
  find("img.after").style.visibility = "";
  find("[data-act=flicker]").classList.toggle("on", on);
  if (!on) return;
  split(0);
  find("input.split").value = 0;
  let hidden = false;
  ticking = setInterval(() => {
    hidden = !hidden;
    find("img.after").style.visibility = hidden ? "hidden" : "";
  }, 350);
}

function outline(on) {
  outlined = on;
  find("img.outline").hidden = !on || !props.value.outline;
  find("[data-act=outline]").classList.toggle("on", on);
}

function show() {
  const value = props.value, empty = !value || !value.after;
  asked = 0;
  find(".some").hidden = empty;
  find(".none").hidden = !empty;
  find(".none").textContent = (value && value.broken) || "Nothing to judge yet. Mark a place, choose a method, press Paint.";
  if (empty) return delete element.dataset.number;
  for (const name of ["before", "after", "outline"]) if (value[name]) find(`img.${name}`).src = value[name];
  find("img.before").hidden = !value.before;
  find(".title").textContent = value.title;
  find(".words").textContent = value.words;
  find(".advice").textContent = value.advice;
  find(".advice").classList.toggle("bad", value.doubtful);
  find(".decision").textContent = value.decided;
  find(".decision").dataset.decision = value.decision;
  element.dataset.number = value.number;
  flicker(false);
  outline(outlined);
  split(Number(find("input.split").value));
  frame();
}

element.addEventListener("input", (event) => {
  if (event.target.matches("input.split")) {
    flicker(false);
    split(Number(event.target.value));
  }
});
function act(name) {
  if (!props.value || !props.value.after) return;
  if (name === "flicker") flicker(ticking === null);
  if (name === "outline") outline(!outlined);
  if (name === "zoom") {
    zoomed = !zoomed;
    frame();
  }
}
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) act(button.dataset.act);
});
// A button acts on the candidate that is seen. Until its answer is shown, further presses do nothing (-2):
// they would judge a picture that no one has seen yet. An answer that never comes is given up.
const PATIENCE_MS = 10000;
window.diaglineLook = () => {
  if (asked && performance.now() - asked < PATIENCE_MS) return -2;
  asked = performance.now();
  return props.value && props.value.after ? props.value.number : -1;
};
const KEYS = { f: "flicker", m: "outline", z: "zoom" };
const BUTTONS = { a: "accept", r: "reject", u: "undecide", j: "next", arrowright: "next", k: "previous", arrowleft: "previous" };
if (window.diaglineKeys) document.removeEventListener("keydown", window.diaglineKeys);
window.diaglineKeys = (event) => {
  const typed = event.target.closest && event.target.closest("input:not([type=range]):not([type=radio]), textarea, [contenteditable=true]");
  if (typed || event.ctrlKey || event.metaKey || event.altKey || !element.isConnected || element.offsetParent === null) return;
  const key = event.key.toLowerCase();
  if (KEYS[key]) act(KEYS[key]);
  else if (BUTTONS[key] && !event.repeat) document.getElementById(BUTTONS[key]).click();
  else return;
  event.preventDefault();
};
document.addEventListener("keydown", window.diaglineKeys);
window.addEventListener("resize", frame);
new ResizeObserver(frame).observe(element);
watch("value", show);
show();
