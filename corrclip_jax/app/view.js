// Draws the chosen one of the results (see view.py) and answers the pointer; everything happens in the browser.
let wanted = null;
const state = { alone: -1, opacity: 0.55, outlines: true };
let results = null, view = null, photo = null, labels = null, chances = null, edges = null;
const find = (selector) => element.querySelector(selector);

function pixels(address, width, height) {
  return fetch(address)
    .then((answer) => answer.blob())
    .then((blob) => createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }))
    .then((image) => {
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, width, height).data;
    });
}

function receive(value) {
  if (!value || !value.photos) return;
  results = value.photos;
  const strip = find(".strip");
  strip.hidden = results.length < 2;
  strip.replaceChildren(...results.map((one, number) => {
    const button = document.createElement("button"), picture = document.createElement("img");
    button.type = "button"; button.dataset.number = number; button.title = one.name;
    picture.src = one.photo; picture.alt = one.name;
    button.append(picture);
    return button;
  }));
  show(results[0]);
}

async function show(next) {
  for (const button of element.querySelectorAll(".strip button"))
    button.setAttribute("aria-pressed", String(results[Number(button.dataset.number)] === next));
  wanted = next;
  const [shot, map] = await Promise.all([
    pixels(next.photo, next.width, next.height), pixels(next.map, next.width, next.height)]);
  if (wanted !== next) return;  // another one was chosen meanwhile
  const count = next.width * next.height;
  labels = new Uint16Array(count); chances = new Uint8Array(count); edges = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    labels[i] = map[4 * i] + 256 * map[4 * i + 1];
    chances[i] = map[4 * i + 2];
  }
  for (let i = 0; i < count; i++) {
    const right = (i + 1) % next.width && labels[i] !== labels[i + 1];
    edges[i] = right || (i + next.width < count && labels[i] !== labels[i + next.width]) ? 1 : 0;
  }
  view = next; photo = shot; state.alone = -1;
  find(".empty").hidden = true; find(".shown").hidden = false;
  legend(); draw();
}

function draw() {
  const canvas = find("canvas");
  canvas.width = view.width; canvas.height = view.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(view.width, view.height);
  const out = image.data;
  for (let i = 0; i < labels.length; i++) {
    const one = view.classes[labels[i]], j = 4 * i;
    const shown = state.alone < 0 || state.alone === labels[i];
    if (!shown) {
      const grey = 0.3 * (photo[j] + photo[j + 1] + photo[j + 2]) / 3 + 20;
      out[j] = out[j + 1] = out[j + 2] = grey;
    } else {
      const opacity = one.clear && state.alone < 0 ? 0 : state.opacity;
      for (let c = 0; c < 3; c++) out[j + c] = photo[j + c] * (1 - opacity) + one.colour[c] * opacity;
    }
    if (state.outlines && edges[i]) out[j] = out[j + 1] = out[j + 2] = shown ? 255 : 90;
    out[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  const name = state.alone < 0 ? "all classes" : view.classes[state.alone].name;
  canvas.setAttribute("aria-label", `Photo with the colours of ${name}`);
  find(".all").disabled = state.alone < 0;
  for (const button of element.querySelectorAll(".legend button"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.label) === state.alone));
}

function percent(share) {
  return share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function legend() {
  const order = view.classes.map((_, label) => label).filter((label) => view.classes[label].share > 0);
  order.sort((a, b) => view.classes[b].share - view.classes[a].share);
  find(".legend").replaceChildren(...order.map((label) => {
    const one = view.classes[label], item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button"; button.dataset.label = label; button.title = [one.name, ...one.synonyms].join("; ");
    for (const [kind, text] of [["swatch", ""], ["name", one.name], ["share", percent(one.share)]]) {
      const part = document.createElement("span");
      part.className = kind; part.textContent = text;
      if (kind === "swatch") part.style.background = one.clear ? "transparent" : `rgb(${one.colour.join(",")})`;
      button.append(part);
    }
    item.append(button);
    return item;
  }));
}

function pixelAt(event) {
  const canvas = find("canvas"), box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / view.width, box.height / view.height);  // object-fit: contain
  const x = Math.floor((event.clientX - box.left - (box.width - view.width * scale) / 2) / scale);
  const y = Math.floor((event.clientY - box.top - (box.height - view.height * scale) / 2) / scale);
  return x < 0 || y < 0 || x >= view.width || y >= view.height ? -1 : y * view.width + x;
}

function isolate(label) {
  state.alone = state.alone === label ? -1 : label;
  draw();
}

function read(event) {
  if (!view || event.target.tagName !== "CANVAS") return;
  const i = pixelAt(event);
  if (i >= 0) find(".reading").textContent = `${view.classes[labels[i]].name}, probability ${(100 * chances[i] / 255).toFixed(0)} %`;
}

element.addEventListener("pointermove", read);
element.addEventListener("pointerdown", read);
element.addEventListener("click", (event) => {
  if (!view) return;
  const chosen = event.target.closest(".legend button");
  if (chosen) isolate(Number(chosen.dataset.label));
  else if (event.target.closest(".strip button")) show(results[Number(event.target.closest("button").dataset.number)]);
  else if (event.target.closest(".all")) isolate(state.alone);
  else if (event.target.tagName === "CANVAS" && pixelAt(event) >= 0) isolate(labels[pixelAt(event)]);
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".opacity")) state.opacity = event.target.value / 100;
  if (event.target.matches(".outlines")) state.outlines = event.target.checked;
  if (view) draw();
});
watch("value", () => receive(props.value));
receive(props.value);
