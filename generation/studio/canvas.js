// The drawing board: brush, polygon and eraser over a picture; every change is saved at once.
// `element`, `props`, `server` and `watch` are Gradio's. The mask lives in a canvas of the picture's own size.
const find = (selector) => element.querySelector(selector);
const UNDO_STEPS = 40;
let tool = "brush", size = 0, drawing = false, last = null, corners = [], past = [], shown = null;
let saving = Promise.resolve(), unsaved = "";

const board = () => find("canvas.mask");
const overlay = () => find("canvas.overlay");

function say(text, bad = false) {
  const line = find(".said");
  line.textContent = text;
  line.classList.toggle("bad", bad);
}

function fit() {
  const value = props.value, stage = find(".stage");
  if (!value || !value.image) return;
  const room = stage.parentElement.getBoundingClientRect();
  const height = Math.max(240, window.innerHeight - room.top - window.scrollY - 124);
  const scale = Math.min((room.width - 4) / value.width, height / value.height, 8);
  stage.style.width = `${Math.round(value.width * scale)}px`;
  stage.style.height = `${Math.round(value.height * scale)}px`;
  overlay().width = Math.round(value.width * scale);
  overlay().height = Math.round(value.height * scale);
  preview();
}

function context() {
  return board().getContext("2d", { willReadFrequently: true });
}

function at(event) {
  const box = board().getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * board().width, ((event.clientY - box.top) / box.height) * board().height];
}

function remember() {
  past.push(context().getImageData(0, 0, board().width, board().height));
  if (past.length > UNDO_STEPS) past.shift();
}

function line(from, to) {
  const pen = context();
  pen.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  pen.strokeStyle = pen.fillStyle = "rgb(230, 40, 40)";
  pen.lineWidth = size;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(from[0], from[1]);
  pen.lineTo(to[0] + 0.01, to[1]);
  pen.stroke();
}

function preview(pointer = null) {
  const pen = overlay().getContext("2d"), scale = overlay().width / board().width;
  pen.clearRect(0, 0, overlay().width, overlay().height);
  pen.lineWidth = 2;
  pen.strokeStyle = "rgb(255, 215, 60)";
  pen.fillStyle = "rgb(255, 215, 60)";
  if (corners.length) {
    pen.beginPath();
    corners.concat(pointer ? [pointer] : []).forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x * scale, y * scale));
    pen.stroke();
    for (const [x, y] of corners) pen.fillRect(x * scale - 3, y * scale - 3, 6, 6);
  } else if (pointer && tool !== "polygon") {
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.arc(pointer[0] * scale, pointer[1] * scale, Math.max(2, (size * scale) / 2), 0, 2 * Math.PI);
    pen.stroke();
  }
}

// An open polygon is no mask yet; this browser keeps its corners for a reload.
const cornersKey = () => `diagline-corners:${shown}`;

function keepCorners() {
  try {
    if (corners.length) localStorage.setItem(cornersKey(), JSON.stringify(corners));
    else localStorage.removeItem(cornersKey());
  } catch { /* a browser that keeps nothing */ }
}

function keptCorners() {
  try {
    return JSON.parse(localStorage.getItem(cornersKey())) || [];
  } catch {
    return [];
  }
}

function closePolygon() {
  if (corners.length < 3) {
    say("a polygon has at least three corners", true);
    return;
  }
  remember();
  const pen = context();
  pen.globalCompositeOperation = "source-over";
  pen.fillStyle = "rgb(230, 40, 40)";
  pen.beginPath();
  corners.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x, y));
  pen.closePath();
  pen.fill();
  corners = [];
  keepCorners();
  preview();
  save();
}

function save() {
  const source = board(), copy = document.createElement("canvas");
  copy.width = source.width;
  copy.height = source.height;
  const pixels = context().getImageData(0, 0, source.width, source.height);
  let covered = 0;
  for (let index = 0; index < pixels.data.length; index += 4) {
    const inside = pixels.data[index + 3] > 127 ? 255 : 0;
    covered += inside ? 1 : 0;
    pixels.data[index] = pixels.data[index + 1] = pixels.data[index + 2] = inside;
    pixels.data[index + 3] = 255;
  }
  copy.getContext("2d").putImageData(pixels, 0, 0);
  const normal = props.value.normal, data = copy.toDataURL("image/png");
  say("saving ...");
  saving = saving.then(() => server.save_mask([normal, data])).then(
    (error) => error || "", () => "the page has lost its server; start it again").then((error) => {
      unsaved = error;
      say(error ? `not saved: ${error}` : covered ? `${covered} px marked` : "nothing marked yet", Boolean(error));
    });
}

function undo() {
  if (corners.length) {
    corners.pop();
    keepCorners();
    preview();
  } else if (past.length) {
    context().putImageData(past.pop(), 0, 0);
    save();
  }
}

function choose(name) {
  tool = name;
  for (const button of element.querySelectorAll("button[data-tool]")) button.classList.toggle("on", button.dataset.tool === name);
  if (shown) preview();
}

function show() {
  const value = props.value;
  if (!value || !value.image) {
    say((value && value.broken) || "choose a defect-free picture on the left", Boolean(value && value.broken));
    find(".stage").hidden = true;
    shown = null;
    corners = [];
    return;
  }
  find(".stage").hidden = false;
  shown = value.normal;
  corners = keptCorners();
  if (corners.length) choose("polygon");
  past = [];
  find("img.normal").src = value.image;
  board().width = value.width;
  board().height = value.height;
  const side = Math.min(value.width, value.height);
  size = size || Math.max(2, Math.round(side / 24));
  find("input.size").max = Math.max(8, Math.round(side / 4));
  find("input.size").value = size;
  find(".px").textContent = `${size} px`;
  fit();
  if (!value.mask) {
    say("nothing marked yet");
    element.dataset.ready = value.normal;
    return;
  }
  const picture = new Image();
  picture.onload = () => {
    const pen = context();
    pen.drawImage(picture, 0, 0);
    const pixels = pen.getImageData(0, 0, value.width, value.height);
    let covered = 0;
    for (let index = 0; index < pixels.data.length; index += 4) {
      const inside = pixels.data[index] > 127;
      covered += inside ? 1 : 0;
      pixels.data.set(inside ? [230, 40, 40, 255] : [0, 0, 0, 0], index);
    }
    pen.putImageData(pixels, 0, 0);
    say(covered ? `${covered} px marked` : "nothing marked yet");
    element.dataset.ready = value.normal;
  };
  picture.src = value.mask;
}

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".stage") || event.button !== 0) return;
  event.preventDefault();
  const place = at(event);
  if (tool === "polygon") {
    const scale = overlay().width / board().width, first = corners[0];
    if (corners.length > 2 && Math.hypot(place[0] - first[0], place[1] - first[1]) * scale < 9) return closePolygon();
    corners.push(place);
    keepCorners();
    preview(place);
    return;
  }
  remember();
  drawing = true;
  last = place;
  find(".stage").setPointerCapture(event.pointerId);
  line(place, place);
});
element.addEventListener("pointermove", (event) => {
  if (!shown || !event.target.closest(".stage")) return;
  const place = at(event);
  if (drawing) {
    line(last, place);
    last = place;
  }
  preview(place);
});
for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, () => {
  if (drawing) {
    drawing = false;
    save();
  }
});
element.addEventListener("pointerleave", () => shown && preview());
element.addEventListener("dblclick", (event) => {
  if (tool === "polygon" && event.target.closest(".stage") && corners.length > 3) {
    corners.pop(); // the second click of the two
    closePolygon();
  }
});
element.addEventListener("input", (event) => {
  if (!event.target.matches("input.size")) return;
  size = Number(event.target.value);
  find(".px").textContent = `${size} px`;
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.tool) choose(button.dataset.tool);
  if (!shown) return;
  if (button.dataset.act === "close") closePolygon();
  if (button.dataset.act === "undo") undo();
  if (button.dataset.act === "clear") {
    remember();
    corners = [];
    keepCorners();
    context().clearRect(0, 0, board().width, board().height);
    preview();
    save();
  }
});
// What a button of the page acts on: the drawing that is seen, once it is saved.
window.diaglineBoard = async () => {
  await saving;
  return JSON.stringify({ normal: shown || "", corners: corners.length, unsaved });
};
if (window.diaglineDrawKeys) document.removeEventListener("keydown", window.diaglineDrawKeys);
window.diaglineDrawKeys = (event) => {
  const typed = event.target.closest && event.target.closest("input:not([type=range]):not([type=radio]), textarea, [contenteditable=true]");
  if (typed || !shown || !element.isConnected || element.offsetParent === null) return;
  if (event.key === "Enter" && corners.length) closePolygon();
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
  else return;
  event.preventDefault();
};
document.addEventListener("keydown", window.diaglineDrawKeys);
window.addEventListener("resize", () => shown && fit());
new ResizeObserver(() => shown && fit()).observe(element);
watch("value", show);
choose("brush");
show();
