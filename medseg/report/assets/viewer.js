// The slice viewer of one case: NiiVue draws, this file gives it volumes and answers to its controls.
(() => {
  "use strict";
  const medseg = (window.medseg = window.medseg || {});
  const [AXIAL, CORONAL, SAGITTAL, THREE, SURFACE] = [0, 1, 2, 3, 4];
  const NAMES = ["Axial", "Coronal", "Sagittal"];
  const AXIS = [2, 1, 0]; // the axis that each plane is scrolled along
  const DIRECTIONS = [["R", "L"], ["A", "P"], ["S", "I"]];
  const [BLUE, ORANGE] = [[86, 180, 233], [230, 159, 0]];
  const COLOURS = [
    BLUE, ORANGE, [0, 158, 115], [240, 228, 66], [204, 121, 167], [213, 94, 0], [0, 114, 178],
    [153, 221, 255], [170, 170, 0], [238, 136, 102], [187, 204, 51], [170, 68, 153],
  ];
  const UNSURE = [ // from hardly to wholly, light on dark: told apart without colours too
    [75, 3, 161], [100, 3, 165], [125, 3, 168], [168, 34, 150], [203, 70, 121], [229, 107, 93], [248, 148, 65], [253, 225, 80],
  ];
  const views = new WeakMap();

  const el = (tag, set = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(set)) {
      if (name in made && typeof value !== "string") made[name] = value;
      else if (value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const group = (name, ...children) => el("label", { class: "group" }, name, ...children);

  // A row of buttons of which one is pressed.
  function choice(name, options, pressed, act) {
    const row = el("div", { class: "choice" });
    const set = (value) => {
      for (const button of row.children) button.setAttribute("aria-pressed", String(button.dataset.value === String(value)));
    };
    for (const [value, text] of options) {
      const button = el("button", { type: "button", "data-value": String(value) }, text);
      button.addEventListener("click", () => {
        set(value);
        act(value);
      });
      row.append(button);
    }
    set(pressed);
    const field = el("fieldset", { class: "group" }, el("legend", {}, name), row);
    return { field, set };
  }

  // What draws: "" where there is no WebGL2, "software" where a processor does the work of a graphics card.
  function graphics() {
    const gl = document.createElement("canvas").getContext("webgl2");
    if (!gl) return "";
    const named = gl.getExtension("WEBGL_debug_renderer_info");
    const name = named ? String(gl.getParameter(named.UNMASKED_RENDERER_WEBGL)) : "";
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return /swiftshader|llvmpipe|software|basic render/i.test(name) ? "software" : "card";
  }

  const made = (more) =>
    new window.niivue.Niivue({
      logLevel: "silent", dragAndDropEnabled: false, show3Dcrosshair: false, backColor: [0, 0, 0, 1], loadingText: "",
      crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.2, crosshairWidthUnit: "percent", crosshairGap: 4,
      fontColor: [1, 1, 1, 1], fontMinPx: 14, fontSizeScaling: 0.5, isColorbar: false, isAntiAlias: true, ...more,
    });
  const forget = (nv) => {
    nv?.cleanup();
    nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  };

  async function loaded(base64, name) {
    const image = await window.niivue.NVImage.loadFromBase64({ base64, name });
    return { shape: image.hdr.dims.slice(1, 4), affine: image.hdr.affine.map((row) => Array.from(row)), values: image.img };
  }

  medseg.open = (host, scene) => {
    const view = new View(host, scene);
    views.set(host, view);
    host.medsegView = view;
    view.start().catch((error) => view.fail(`The viewer could not be started (${error.message}).`));
  };
  medseg.close = (host) => {
    views.get(host)?.end();
    views.delete(host);
  };

  class View {
    constructor(host, scene) {
      Object.assign(this, { host, scene, plane: AXIAL, layout: THREE, structure: 0, opacity: 0.45, ended: false });
      this.fill = scene.reference && scene.prediction ? "disagreement" : "none";
      this.lines = [medseg.LINE_REFERENCE, medseg.LINE_PREDICTION];
      this.surfaceOf = scene.reference ? "reference" : "prediction";
      host.replaceChildren();
    }

    fail(why) {
      this.host.replaceChildren(el("p", { class: "problem" }, `${why} The pictures below stand in for it.`));
      this.host.dataset.state = "failed";
    }

    async start() {
      const draws = graphics();
      if (!draws) {
        this.fail("This browser has no WebGL2, which the viewer needs.");
        return;
      }
      this.host.dataset.state = "loading";
      this.host.append(el("p", { class: "problem" }, "Loading the pictures \u2026"));
      const { scene } = this;
      this.labels = {};
      for (const side of ["reference", "prediction"]) {
        if (scene[side]) this.labels[side] = await loaded(scene[side], `${side}.nii.gz`);
      }
      this.uncertainty = scene.uncertainty ? await loaded(scene.uncertainty, "uncertainty.nii.gz") : null;
      const scan = scene.scan ? await loaded(scene.scan, "scan.nii.gz") : null;
      if (this.ended) return;
      const grid = this.labels.reference || this.labels.prediction;
      this.shape = Array.from(grid.shape);
      this.affine = grid.affine;
      this.at = this.shape.map((n) => Math.floor(n / 2));
      this.cut = medseg.cut(this.shape, draws === "software");
      this.fine = this.shape.map((n, k) => n * this.cut[k]);
      this.fineAffine = medseg.fineAffine(this.affine, this.cut);
      this.build();
      const nv = (this.nv = made({ multiplanarShowRender: 0, multiplanarPadPixels: 4, showAllOrientationMarkers: true, sagittalNoseLeft: true }));
      await nv.attachToCanvas(this.canvas);
      if (this.ended) return;
      nv.setRadiologicalConvention(true);
      this.watch();
      const { NVImage } = window.niivue;
      const bytes = medseg.scanOn(this.fine, this.fineAffine, scan);
      const base = await NVImage.new(medseg.nifti(this.fine, this.fineAffine, bytes), "scan.nii", "gray", 1, null, 0, 255);
      this.base = base;
      this.cover = await this.layer("fill.nii", this.filled(), this.opacity);
      this.outline = await this.layer("outline.nii", this.outlined(), 1);
      if (this.ended) return;
      this.setWindow();
      this.together([base, this.cover, this.outline]);
      if (scene.places.length) this.goTo(scene.places[0].mm);
      else this.move();
      this.host.dataset.state = "ready";
    }

    async layer(name, bytes, opacity) {
      const raw = medseg.nifti(this.fine, this.fineAffine, bytes);
      const image = await window.niivue.NVImage.new(raw, name, "gray", opacity, null, 0, 255);
      image.setColormapLabel(this.table());
      return image;
    }

    // Each volume that NiiVue is given makes it draw all of them anew, which takes long without a graphics card.
    together(images) {
      const { nv } = this;
      const draw = nv.updateGLVolume;
      nv.updateGLVolume = () => {};
      images.forEach((image) => nv.addVolume(image));
      nv.updateGLVolume = draw;
      nv.updateGLVolume();
    }

    end() {
      this.ended = true;
      forget(this.nv);
      forget(this.solid);
      this.nv = this.solid = null;
      this.host.replaceChildren();
      delete this.host.dataset.state;
    }

    // ---- controls ---------------------------------------------------------------------------------------------
    build() {
      const { scene } = this;
      this.host.replaceChildren();
      const both = scene.reference && scene.prediction;
      const layouts = [[THREE, "Three planes"], [AXIAL, "Axial"], [CORONAL, "Coronal"], [SAGITTAL, "Sagittal"], [SURFACE, "3D"]];
      const flat = this.shape.indexOf(1) >= 0;
      const shown = flat ? layouts.filter(([plane]) => plane < 3 && this.shape[AXIS[plane]] === 1) : layouts;
      if (flat) this.layout = this.plane = shown[0][0];
      this.layouts = choice("View", shown, this.layout, (value) => this.setLayout(value));
      const fills = both ? [["disagreement", "Disagreement"], ["reference", "Reference"], ["prediction", "Prediction"], ["none", "None"]]
        : [[this.surfaceOf, "Structures"], ...(scene.uncertainty ? [["uncertainty", "Uncertainty"]] : []), ["none", "None"]];
      this.fills = choice("Filled", fills, this.fill, (value) => {
        this.fill = value;
        this.unsureScale.hidden = value !== "uncertainty";
        this.repaint();
      });
      const bar = el("div", { class: "bar" }, this.layouts.field, this.fills.field);
      if (both) bar.append(this.lineTicks());
      bar.append(this.structureChoice());
      this.slice = el("input", { type: "range", min: "1", max: "1", value: "1" });
      this.slice.addEventListener("input", () => this.scrollTo(Number(this.slice.value) - 1));
      this.sliceName = el("span", {}, "Slice");
      this.slices = group(this.sliceName, this.slice);
      this.slices.classList.add("slices");
      this.layouts.field.classList.add("first");
      const second = el("div", { class: "bar second" }, this.slices, this.opacitySlider(), ...this.windowSliders());
      if (scene.places.length) second.append(this.jumps());
      if (both) second.append(this.surfaceChoice());
      this.canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": "Slices of the scan with both outlines" });
      this.block = el("canvas", { tabindex: "0", role: "img", "aria-label": "Surface of the structures", hidden: true });
      this.told = el("p", { "aria-live": "polite" });
      this.host.append(bar, second, el("div", { class: "stage" }, this.canvas, this.block), this.under(both));
    }

    lineTicks() {
      const ticks = [["reference", medseg.LINE_REFERENCE], ["prediction", medseg.LINE_PREDICTION]].map(([name, line]) => {
        const box = el("input", { type: "checkbox", checked: true });
        box.addEventListener("change", () => {
          this.lines = box.checked ? [...this.lines, line] : this.lines.filter((one) => one !== line);
          this.repaint();
        });
        return el("label", { class: "tick" }, box, name);
      });
      const row = el("div", {});
      row.append(ticks[0], " \u00a0", ticks[1]);
      this.ticks = el("fieldset", { class: "group" }, el("legend", {}, "Outlines"), row);
      return this.ticks;
    }

    structureChoice() {
      const select = el("select", {}, el("option", { value: "0" }, "All structures"));
      for (const { value, name } of this.scene.structures) select.append(el("option", { value: String(value) }, name));
      select.addEventListener("change", () => {
        this.structure = Number(select.value);
        this.repaint();
        if (this.layout === SURFACE) this.drawSurface();
      });
      return group("Structure", select);
    }

    opacitySlider() {
      const slider = el("input", { type: "range", min: "0", max: "100", value: String(100 * this.opacity) });
      slider.addEventListener("input", () => {
        this.opacity = Number(slider.value) / 100;
        this.cover.opacity = this.opacity;
        this.later();
      });
      this.opacities = group("Strength of the fill", slider);
      return this.opacities;
    }

    windowSliders() {
      const { scene } = this;
      if (!scene.scan) return [];
      const [low, high] = scene.range;
      const [from, to] = scene.window;
      const unit = scene.unit ? ` ${scene.unit}` : "";
      const span = high - low;
      const step = String(span / 255);
      const digits = span < 20 ? 2 : 0;
      const made = [["Level (brightness)", (from + to) / 2, low, high], ["Window (contrast)", to - from, span / 100, span]].map(
        ([name, value, least, most]) => {
          const slider = el("input", { type: "range", min: String(least), max: String(most), step, value: String(value) });
          const shown = el("span", { class: "value" });
          const say = () => (shown.textContent = ` ${Number(slider.value).toFixed(digits)}${unit}`);
          slider.addEventListener("input", () => {
            say();
            this.setWindow();
            this.later();
          });
          say();
          return { slider, label: el("label", { class: "group" }, el("span", {}, name, shown), slider) };
        },
      );
      [this.level, this.width] = made.map((one) => one.slider);
      this.windows = made.map((one) => one.label);
      return this.windows;
    }

    jumps() {
      const { places } = this.scene;
      const select = el("select", { class: "jump" });
      places.forEach(({ text }, n) => select.append(el("option", { value: String(n) }, text)));
      const go = () => {
        if (this.layout === SURFACE) this.setLayout(THREE);
        this.goTo(places[Number(select.value)].mm);
      };
      select.addEventListener("change", go);
      return group("Go to an error, the largest first", select);
    }

    surfaceChoice() {
      const options = [["reference", "Reference"], ["prediction", "Prediction"]];
      this.surfaces = choice("Surface shown", options, this.surfaceOf, (value) => {
        this.surfaceOf = value;
        this.drawSurface();
      });
      this.surfaces.field.hidden = true;
      return this.surfaces.field;
    }

    under(both) {
      const swatch = (name, text) => el("li", {}, el("span", { class: `key ${name}` }), text);
      const legend = el("ul", { class: "legend" });
      if (both) {
        legend.append(
          swatch("reference", "reference (line); missed: in the reference alone (fill)"),
          swatch("prediction", "prediction (line); extra: in the prediction alone (fill)"),
          el("li", {}, el("span", { class: "key same" }), "both lines together"),
          swatch("other", "two different structures"),
        );
      } else {
        this.scene.structures.slice(0, COLOURS.length).forEach(({ name }, n) => legend.append(swatch(`k${n}`, name)));
        const more = this.scene.structures.length - COLOURS.length;
        if (more > 0) legend.append(el("li", {}, `${more} more, in the same colours again`));
      }
      this.unsureScale = el("div", { class: "scale unsure", hidden: true }, el("span", {}, "hardly unsure"), el("i", {}), el("span", {}, "not decided"));
      this.legend = legend;
      this.scale = el("div", { class: "scale", hidden: true }, el("span", {}), el("i", {}), el("span", {}));
      this.help = el("p", {}, "R marks the patient's right, on the left of the picture (radiological convention). Click the picture, then scroll with the wheel "
        + "or the arrow keys; drag moves the crosshair. Tab reaches every control.");
      return el("div", { class: "under" }, this.told, legend, this.unsureScale, this.scale, this.help);
    }

    // ---- keys and wheel ---------------------------------------------------------------------------------------
    watch() {
      const stage = this.canvas.parentElement;
      stage.addEventListener("wheel", (event) => this.onWheel(event), { capture: true, passive: false });
      stage.addEventListener("keydown", (event) => this.onKey(event), { capture: true });
      stage.addEventListener("keyup", (event) => event.stopPropagation(), { capture: true });
      this.nv.onLocationChange = (where) => this.onMove(where);
    }

    onWheel(event) {
      if (document.activeElement !== event.target) {
        event.stopPropagation(); // the page scrolls on; the picture only once it was clicked
        return;
      }
      if (this.layout === SURFACE) return;
      event.preventDefault();
      event.stopPropagation();
      const plane = this.planeUnder(event);
      const axis = AXIS[plane];
      this.at[axis] += event.deltaY > 0 ? -1 : 1;
      this.plane = plane;
      this.move();
    }

    planeUnder(event) {
      if (this.layout !== THREE) return this.plane;
      const box = this.canvas.getBoundingClientRect();
      const dpr = this.canvas.width / box.width;
      const tile = this.nv.tileIndex((event.clientX - box.left) * dpr, (event.clientY - box.top) * dpr);
      const found = tile >= 0 ? this.nv.screenSlices[tile].axCorSag : this.plane;
      return found <= SAGITTAL ? found : this.plane;
    }

    onKey(event) {
      const by = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5, ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key !== "Tab") event.stopPropagation();
      if (this.layout === SURFACE) {
        const [a, e] = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, 6], ArrowDown: [0, -6] }[event.key] || [0, 0];
        if (!a && !e) return;
        event.preventDefault();
        this.solid?.setRenderAzimuthElevation(this.solid.scene.renderAzimuth + a, this.solid.scene.renderElevation + e);
        return;
      }
      if (event.key === "Home" && this.scene.places.length) this.goTo(this.scene.places[0].mm);
      if (!by) return;
      event.preventDefault();
      this.at[AXIS[this.plane]] += by;
      this.move();
    }

    // ---- where ------------------------------------------------------------------------------------------------
    goTo(mm) {
      const frac = this.nv.mm2frac(mm);
      this.at = this.shape.map((n, k) => Math.floor(frac[k] * n));
      this.move();
    }

    scrollTo(index) {
      this.at[AXIS[this.plane]] = index;
      this.move();
    }

    move() {
      this.at = this.at.map((n, k) => Math.min(this.shape[k] - 1, Math.max(0, n)));
      this.nv.scene.crosshairPos = this.at.map((n, k) => (n + 0.5) / this.shape[k]);
      this.nv.drawScene();
      this.say();
    }

    onMove() {
      const before = this.at.join();
      this.at = this.shape.map((n, k) => Math.min(n - 1, Math.max(0, Math.floor(this.nv.scene.crosshairPos[k] * n))));
      if (this.at.join() !== before) this.say();
    }

    say() {
      const [i, j, k] = this.at;
      const axis = AXIS[this.plane];
      this.slice.max = String(this.shape[axis]);
      this.slice.value = String(this.at[axis] + 1);
      const { first, of, every } = this.scene;
      const number = first[axis] + every[axis] * this.at[axis] + Math.floor((every[axis] + 1) / 2);
      this.sliceName.textContent = `${NAMES[this.plane]} slice ${number} of ${of[axis]}`;
      const mm = [0, 1, 2].map((r) => {
        const value = this.affine[r][0] * i + this.affine[r][1] * j + this.affine[r][2] * k + this.affine[r][3];
        return `${DIRECTIONS[r][value >= 0 ? 0 : 1]} ${Math.abs(value).toFixed(1)}`;
      });
      const o = i + this.shape[0] * (j + this.shape[1] * k);
      const held = ["reference", "prediction"].filter((side) => this.labels[side]).map((side) => {
        const value = this.labels[side].values[o];
        return `${side}: ${this.scene.structures.find((one) => one.value === value)?.name || "nothing"}`;
      });
      this.told.textContent = this.layout === SURFACE ? "" : `At ${mm.join(", ")} mm. ${held.join("; ")}.`;
    }

    // ---- what is drawn ----------------------------------------------------------------------------------------
    wanted() {
      const { structure } = this;
      return structure ? (value) => value === structure : (value) => value > 0;
    }

    filled() {
      if (this.fill === "uncertainty") return medseg.unsure(this.fine, this.fineAffine, this.uncertainty);
      return medseg.filled(this.labels, this.cut, this.fill, this.wanted());
    }

    outlined() {
      return medseg.outlined(this.labels, this.cut, this.lines, this.wanted());
    }

    repaint() {
      this.cover.setColormapLabel(this.fill === "uncertainty" ? coloured(UNSURE) : this.table());
      this.cover.img = this.filled();
      this.outline.img = this.outlined();
      this.nv.updateGLVolume();
    }

    table() {
      const rows = [[0, 0, 0]];
      rows[medseg.MISSED] = rows[medseg.LINE_REFERENCE] = BLUE;
      rows[medseg.EXTRA] = rows[medseg.LINE_PREDICTION] = ORANGE;
      rows[medseg.OTHER] = [204, 121, 167];
      rows[medseg.LINE_BOTH] = [255, 255, 255];
      for (const { value } of this.scene.structures) {
        rows[medseg.structureValue(value)] = COLOURS[(value - 1) % COLOURS.length];
      }
      return coloured(rows);
    }

    // However fast a slider moves, one drawing at a time.
    later() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        if (!this.ended) this.nv.updateGLVolume();
      });
    }

    setWindow() {
      if (!this.level) return;
      const [low, high] = this.scene.range;
      const [centre, width] = [Number(this.level.value), Number(this.width.value)];
      const byte = (value) => (255 * (value - low)) / (high - low);
      this.base.cal_min = byte(centre - width / 2);
      this.base.cal_max = byte(centre + width / 2);
    }

    setLayout(layout) {
      this.layout = layout;
      if (layout <= SAGITTAL) this.plane = layout;
      const surface = layout === SURFACE;
      for (const one of [this.slices, this.opacities, this.ticks, this.fills.field, ...(this.windows || [])]) {
        if (one) one.hidden = surface;
      }
      if (this.surfaces) this.surfaces.field.hidden = !surface;
      this.legend.hidden = this.help.hidden = surface;
      this.scale.hidden = !surface;
      this.layouts.set(layout);
      this.canvas.hidden = surface;
      this.block.hidden = !surface;
      if (surface) this.drawSurface();
      else {
        this.nv.setSliceType(layout);
        this.move();
      }
    }

    // ---- the surface ------------------------------------------------------------------------------------------
    surfacesNow() {
      const [own, other] = this.surfaceOf === "reference" ? ["reference", "prediction"] : ["prediction", "reference"];
      const values = this.scene.structures.map((one) => one.value).filter(this.wanted());
      const spacing = [0, 1, 2].map((k) => Math.hypot(...[0, 1, 2].map((r) => this.affine[r][k])));
      const found = [];
      for (const value of values) {
        const inside = (one) => one === value;
        const sides = [own, other].map((side) => this.labels[side]);
        const box = medseg.boxOf(sides.filter(Boolean).map((side) => side.values), this.shape, inside);
        if (!box) continue;
        const masks = sides.map((side) => side && medseg.maskIn(side.values, this.shape, box, inside));
        const made = medseg.surface(masks[0], masks[1], box.size, spacing, own === "reference");
        if (made) found.push({ ...made, low: box.low });
      }
      return found;
    }

    async drawSurface() {
      if (!this.solid) {
        this.solid = made({ isOrientCube: true });
        await this.solid.attachToCanvas(this.block);
        if (this.ended) return;
        this.solid.setSliceType(SURFACE);
        this.solid.setRenderAzimuthElevation(200, 15);
      }
      for (const mesh of this.solid.meshes.slice()) this.solid.removeMesh(mesh);
      const found = this.surfacesNow();
      const apart = found.flatMap((one) => (one.alone ? [] : Array.from(one.apart, Math.abs))).sort((a, b) => a - b);
      const largest = apart.length ? apart[apart.length - 1] : 0;
      const most = Math.max(apart.length ? apart[Math.floor(0.995 * (apart.length - 1))] : 0, this.scene.tolerance_mm);
      this.surface = { most, largest, vertices: found.reduce((n, one) => n + one.apart.length, 0) };
      for (const one of found) this.solid.addMesh(this.mesh(one, most));
      const [less, , more] = this.scale.children;
      less.textContent = `prediction falls short by ${most.toFixed(1)} mm or more`;
      more.textContent = `reaches ${most.toFixed(1)} mm beyond or more`;
      this.scale.hidden = !found.length;
      const how = apart.length ? `, coloured by its distance to the other; the largest is ${largest.toFixed(1)} mm` : "";
      this.told.textContent = found.length
        ? `Surface of the ${this.surfaceOf}${how}. Drag or use the arrow keys to turn it.`
        : `The ${this.surfaceOf} holds nothing of it.`;
      this.solid.drawScene();
      this.host.dataset.surface = this.surfaceOf;
    }

    mesh({ points, triangles, apart, alone, low }, most) {
      const [n, placed] = [apart.length, new Float32Array(points.length)];
      for (let i = 0; i < n; i++) {
        const at = [0, 1, 2].map((k) => points[3 * i + k] + low[k]);
        for (let r = 0; r < 3; r++) {
          const row = this.affine[r];
          placed[3 * i + r] = row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3];
        }
      }
      const colours = new Uint8Array(4 * n);
      const lonely = this.surfaceOf === "reference" ? -1 : 1;
      for (let i = 0; i < n; i++) colours.set([...shade(alone ? lonely : apart[i] / most), 255], 4 * i);
      const mesh = new window.niivue.NVMesh(placed, Uint32Array.from(triangles), "surface", colours, 1, true, this.solid.gl);
      mesh.meshShaderIndex = this.solid.meshShaderNameToNumber("Matte") ?? 0;
      return mesh;
    }
  }

  // A table of colours for values 0, 1, ..., of which the first is not shown.
  function coloured(rows) {
    const [R, G, B] = [0, 1, 2].map((k) => rows.map((row) => row[k]));
    return { R, G, B, A: rows.map((_, n) => (n ? 255 : 0)), I: rows.map((_, n) => n) };
  }

  // From blue (the prediction falls short) over grey to orange (it reaches beyond); as the scale in page.css.
  const SHADES = [[-1, [31, 120, 209]], [-0.4, [140, 198, 238]], [0, [230, 230, 230]], [0.4, [243, 183, 92]], [1, [224, 90, 0]]];
  function shade(value) {
    const at = Math.min(1, Math.max(-1, value));
    const n = Math.max(1, SHADES.findIndex(([stop]) => at <= stop));
    const [[a, low], [b, high]] = [SHADES[n - 1], SHADES[n]];
    const weight = (at - a) / (b - a);
    return low.map((from, k) => Math.round(from + (high[k] - from) * weight));
  }
})();
