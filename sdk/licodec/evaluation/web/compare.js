"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const stage = find("stage"), world = find("world"), divider = find("divider");
  const pictures = [...world.querySelectorAll("img")];
  const width = Number(world.dataset.width), height = Number(world.dataset.height);
  const LARGEST = 64, LOWEST = 200;
  const view = { left: 0, right: Math.min(1, pictures.length - 1), split: 0.5, scale: 1, x: 0, y: 0, fitted: true };
  const maps = new Map();

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const fitting = (room = stage.clientHeight) => {
    const scale = Math.min(stage.clientWidth / width, room / height);
    return scale < 1 ? scale : Math.min(Math.floor(scale), LARGEST);
  };
  const roomy = () => width * view.scale > stage.clientWidth + 1 || height * view.scale > stage.clientHeight + 1;
  // Where a picture that is wider than the stage may lie, and where another does.
  const placed = (at, size, room) => Math.round(size > room ? clamp(at, room - size, 0) : (room - size) / 2);

  function draw() {
    view.x = placed(view.x, width * view.scale, stage.clientWidth);
    view.y = placed(view.y, height * view.scale, stage.clientHeight);
    world.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    world.classList.toggle("close", view.scale > 1);
    stage.classList.toggle("roomy", roomy());
    const line = Math.round(view.split * stage.clientWidth);
    const cut = clamp((line - view.x) / view.scale, 0, width);
    const left = shown(view.left), right = shown(view.right);
    for (const element of world.children) element.classList.toggle("seen", element === left || element === right);
    right.style.clipPath = left === right ? "none" : `inset(0 0 0 ${cut}px)`;
    if (left !== right) left.style.clipPath = `inset(0 ${width - cut}px 0 0)`;
    divider.style.left = `${line}px`;
    divider.setAttribute("aria-valuenow", String(Math.round(100 * view.split)));
    divider.setAttribute("aria-valuetext", `${Math.round(100 * view.split)} %`);
    find("zoom").textContent = `${Math.round(100 * view.scale)} %`;
    find("left").value = String(view.left);
    find("right").value = String(view.right);
    find("left-tag").textContent = name(view.left);
    find("right-tag").textContent = name(view.right);
  }

  function name(index) {
    const title = pictures[index].alt;
    return find("error").checked && index > 0 ? `Error of ${title}, \u00d7${find("factor").value}` : title;
  }

  // The picture, or the map of its errors once that is there. The original has none, and is shown itself.
  function shown(index) {
    return (find("error").checked && index > 0 && maps.get(index)) || pictures[index];
  }

  async function samples(image) {
    await image.decode();
    // As coded: a profile must not change the numbers.
    const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none" });
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return { canvas, context, data: context.getImageData(0, 0, width, height) };
  }

  let turn = 0;
  async function mapErrors() {
    const mine = ++turn;
    const factor = Number(find("factor").value);
    for (const index of new Set([view.left, view.right])) {
      if (index === 0 || (maps.has(index) && Number(maps.get(index).dataset.factor) === factor)) continue;
      const original = (await samples(pictures[0])).data.data;
      const { canvas, context, data } = await samples(pictures[index]);
      if (mine !== turn) return; // another was asked for meanwhile
      for (let at = 0; at < original.length; at += 1) {
        if (at % 4 < 3) data.data[at] = factor * Math.abs(data.data[at] - original[at]);
      }
      context.putImageData(data, 0, 0);
      canvas.dataset.factor = String(factor);
      maps.get(index)?.remove();
      maps.set(index, canvas);
      world.append(canvas);
    }
  }

  async function update() {
    if (find("error").checked) await mapErrors();
    draw();
  }

  // The picture's point that lies at x, y of the stage stays there.
  function zoom(scale, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const smallest = Math.min(1, fitting());
    const next = clamp(scale, smallest, LARGEST);
    view.x = x - ((x - view.x) * next) / view.scale;
    view.y = y - ((y - view.y) * next) / view.scale;
    view.scale = next;
    view.fitted = next === fitting();
    draw();
  }

  function step(up) {
    const steps = [fitting(), 0.25, 0.5, 1, 2, 4, 8, 16, 32, LARGEST].sort((a, b) => a - b);
    const next = up ? steps.find((one) => one > view.scale * 1.001) : steps.findLast((one) => one < view.scale / 1.001);
    if (next !== undefined) zoom(next);
  }

  function fit() {
    view.scale = fitting();
    view.fitted = true;
    draw();
  }

  function layout() {
    const highest = Math.max(LOWEST, Math.round(0.74 * window.innerHeight));
    stage.style.height = `${clamp(Math.round(height * fitting(highest)), LOWEST, highest)}px`;
    if (view.fitted) fit();
    else draw();
  }

  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const split = (share) => {
    view.split = clamp(share, 0, 1);
    draw();
  };

  // Fingers and the mouse: on the line or on a picture that has no room to move they move the line, else the
  // picture; two fingers zoom.
  const held = new Map();
  let dividing = false;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    held.set(event.pointerId, place(event));
    stage.setPointerCapture(event.pointerId);
    const onLine = divider.contains(event.target);
    dividing = held.size === 1 && (onLine || !roomy());
    if (dividing && !onLine) split(place(event).x / stage.clientWidth);
    stage.classList.toggle("held", !dividing);
    (onLine ? divider : stage).focus({ preventScroll: true });
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    held.set(event.pointerId, now);
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== event.pointerId)[1];
      const spread = (one) => Math.hypot(one.x - other.x, one.y - other.y);
      zoom((view.scale * spread(now)) / Math.max(1, spread(before)), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (dividing) {
      split(now.x / stage.clientWidth);
    } else {
      view.x += now.x - before.x;
      view.y += now.y - before.y;
      draw();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      held.delete(event.pointerId);
      stage.classList.remove("held");
      dividing = false;
    });
  }
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = place(event);
    zoom(view.scale * Math.exp(clamp(-event.deltaY, -120, 120) / 240), at.x, at.y);
  }, { passive: false });

  divider.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 0.1 : 0.01;
    const to = { ArrowLeft: view.split - by, ArrowDown: view.split - by, ArrowRight: view.split + by,
      ArrowUp: view.split + by, PageDown: view.split - 0.1, PageUp: view.split + 0.1, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    split(to);
    event.preventDefault();
    event.stopPropagation();
  });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    const done = { "+": () => step(true), "=": () => step(true), "-": () => step(false), 0: fit, 1: () => zoom(1) }[event.key];
    if (done) done();
    else if (by && roomy()) {
      view.x += by[0];
      view.y += by[1];
      draw();
    } else return;
    event.preventDefault();
  });

  for (const side of ["left", "right"]) {
    find(side).addEventListener("change", (event) => {
      view[side] = Number(event.target.value);
      update();
    });
  }
  find("swap").addEventListener("click", () => {
    [view.left, view.right] = [view.right, view.left];
    draw();
  });
  find("in").addEventListener("click", () => step(true));
  find("out").addEventListener("click", () => step(false));
  find("fit").addEventListener("click", fit);
  find("actual").addEventListener("click", () => zoom(1));
  find("error").addEventListener("change", update);
  find("factor").addEventListener("change", update);

  document.documentElement.classList.add("live");
  new ResizeObserver(layout).observe(stage.parentElement);
  window.addEventListener("resize", layout);
  layout();
})();
