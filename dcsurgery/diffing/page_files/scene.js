"use strict";
// Draw one side, or both over each other, as SVG; pan, zoom, choose.
DCS.SIGNS = { replaced: "~", deleted: "-", inserted: "+", moved: ">", renamed: ">", rewired: "≈", same: "" };

DCS.element = (name, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

DCS.Scene = class {
  // `side`: 0 both, 1 before, 2 after. `view` is shared by all panes, so that they move together.
  constructor(tree, layout, side, view, on) {
    Object.assign(this, { tree, layout, side, view, on });
    this.elements = new Map();
    const heading = ["Both", `Before: ${tree.data.models[0]}`, `After: ${tree.data.models[1]}`][side];
    this.pane = document.createElement("div");
    this.pane.className = "pane";
    this.pane.append(Object.assign(document.createElement("h2"), { textContent: heading }));
    this.svg = DCS.element("svg", { role: "group", "aria-label": `${heading}: graph` });
    const tip = DCS.element("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" });
    tip.append(DCS.element("path", { d: "M0,0.8L8,4L0,7.2z" }));
    this.ground = DCS.element("g");
    this.svg.append(DCS.element("defs", {}, tip), this.ground);
    this.pane.append(this.svg);
    this.listen();
  }

  listen() {
    let from = null;
    this.svg.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, moved: false };
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!from || !event.buttons) return;
      const dx = event.clientX - from.x, dy = event.clientY - from.y;
      if (!from.moved && Math.hypot(dx, dy) < 4) return;
      if (!from.moved) this.svg.setPointerCapture(event.pointerId);
      this.svg.classList.add("dragged");
      this.on.pan(dx, dy);
      from = { x: event.clientX, y: event.clientY, moved: true };
    });
    this.svg.addEventListener("pointerup", () => {
      this.dragged = from && from.moved;
      this.svg.classList.remove("dragged");
      from = null;
    });
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.svg.getBoundingClientRect();
      this.on.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
  }

  on_side(node) {
    return this.side === 0 || (node.s & this.side) !== 0;
  }

  draw() {
    this.elements.clear();
    this.ground.replaceChildren();
    this.inside(this.tree.root, this.ground);
    this.move();
  }

  inside(module, parent) {
    const { places, arrows } = this.layout.of(module);
    for (const arrow of arrows) {
      if ((this.side === 0 || arrow.sides & this.side) && this.on_side(arrow.from) && this.on_side(arrow.to)) {
        const state = arrow.sides === 3 ? "" : arrow.sides === 1 ? "deleted" : "inserted";
        parent.append(DCS.element("path", { class: `arrow ${state}`, d: this.path(arrow.points) }));
      }
    }
    for (const [child, place] of places) {
      if (!this.on_side(child)) continue;
      const drawn = this.tree.isOpen(child) ? this.frame(child, place) : this.box(child, place);
      parent.append(drawn);
    }
  }

  path(points) {
    const [first, ...rest] = points;
    let text = `M${first.x.toFixed(1)},${first.y.toFixed(1)}`;
    for (let i = 0; i < rest.length - 1; i += 1) {
      const half = { x: (rest[i].x + rest[i + 1].x) / 2, y: (rest[i].y + rest[i + 1].y) / 2 };
      const end = i === rest.length - 2 ? rest[i + 1] : half;
      text += `Q${rest[i].x.toFixed(1)},${rest[i].y.toFixed(1)} ${end.x.toFixed(1)},${end.y.toFixed(1)}`;
    }
    if (rest.length === 1) text += `L${rest[0].x.toFixed(1)},${rest[0].y.toFixed(1)}`;
    return text;
  }

  classes(node) {
    const state = this.tree.state(node);
    const names = [node.k === "fold" ? "fold" : node.k, state, state === "same" ? "" : "changed"];
    if (node.holds && state === "same") names.push("holds");
    return names.filter(Boolean).join(" ");
  }

  described(node) {
    const state = this.tree.state(node);
    const inside = node.holds && !node.change ? `, ${node.holds} changes inside` : "";
    return `${this.tree.label(node, this.side)}, ${state === "same" ? "unchanged" : state}${inside}`;
  }

  box(node, place) {
    const made = DCS.element("g", { class: `box ${this.classes(node)}`, transform: `translate(${place.x},${place.y})` });
    this.interactive(made, node, this.tree.canOpen(node) ? "false" : null);
    const round = node.k === "input" || node.k === "output" ? 11 : 3;
    made.append(DCS.element("rect", { width: place.width, height: place.height, rx: round }));
    const sign = DCS.SIGNS[this.tree.state(node)];
    const lines = [`${sign} ${this.tree.label(node, this.side)}`.trim()];
    if (node.holds && !node.change) lines.push(`${node.holds} change${node.holds === 1 ? "" : "s"} inside`);
    lines.forEach((line, index) => {
      const y = place.height / 2 + 4 + 14 * (index - (lines.length - 1) / 2);
      made.append(DCS.element("text", { x: place.width / 2, y, "text-anchor": "middle" }, line));
    });
    return made;
  }

  frame(node, place) {
    const made = DCS.element("g", { class: `frame ${this.classes(node)}`, transform: `translate(${place.x},${place.y})` });
    made.append(DCS.element("rect", { class: "outline", width: place.width, height: place.height, rx: 5 }));
    this.inside(node, made);
    const handle = DCS.element("g", { class: "handle" });
    this.interactive(handle, node, "true");
    handle.append(DCS.element("rect", { x: 1, y: 1, width: place.width - 2, height: DCS.HANDLE - 4, rx: 4 }));
    handle.append(DCS.element("text", { x: 8, y: 14 }, this.tree.label(node, this.side)));
    made.append(handle);
    return made;
  }

  interactive(made, node, expanded) {
    made.setAttribute("role", "button");
    made.setAttribute("tabindex", "-1");
    made.setAttribute("aria-label", this.described(node));
    if (expanded !== null) made.setAttribute("aria-expanded", expanded);
    made.dataset.index = node.index;
    made.append(DCS.element("title", {}, node.i));
    made.addEventListener("click", () => {
      if (!this.dragged) this.on.choose(node, this.side, true);
      this.dragged = false;
    });
    made.addEventListener("dblclick", () => this.on.toggle(node, this.side));
    this.elements.set(node.index, made);
  }

  move() {
    const { x, y, scale } = this.view;
    this.ground.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
  }
};
