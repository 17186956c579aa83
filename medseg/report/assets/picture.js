// From the volumes of a scene to what is drawn: the scan on a grid fine enough for thin outlines, fills and outlines on it.
(() => {
  "use strict";
  const medseg = (window.medseg = window.medseg || {});
  const MOST_VOXELS = 8e6; // of the fine grid: two textures of four bytes each
  const MOST_IN_SOFTWARE = 1e6; // without a graphics card, so that a change takes a second or so
  medseg.MISSED = 1;
  medseg.EXTRA = 2;
  medseg.OTHER = 3;
  medseg.LINE_REFERENCE = 4;
  medseg.LINE_PREDICTION = 5;
  medseg.LINE_BOTH = 6;
  medseg.FIRST_STRUCTURE = 7;
  const MOST_STRUCTURES = 240;
  medseg.UNSURE_STEPS = 8;

  medseg.structureValue = (value) => medseg.FIRST_STRUCTURE + ((value - 1) % MOST_STRUCTURES);

  // How many parts each voxel is cut into along each axis; odd along z, so that the middle of a slice is no face of it.
  medseg.cut = (shape, software) => {
    const most = software ? MOST_IN_SOFTWARE : MOST_VOXELS;
    const n = shape[0] * shape[1] * shape[2];
    const ways = [[3, 3, 3], [2, 2, 3], [3, 3, 1], [2, 2, 1]];
    return ways.find((way) => n * way[0] * way[1] * way[2] <= most) || [1, 1, 1];
  };

  // NIfTI-1 of one volume of bytes.
  medseg.nifti = (shape, affine, bytes) => {
    const raw = new Uint8Array(352 + bytes.length);
    const view = new DataView(raw.buffer);
    view.setInt32(0, 348, true);
    [3, ...shape, 1, 1, 1, 1].forEach((n, k) => view.setInt16(40 + 2 * k, n, true));
    view.setInt16(70, 2, true);
    view.setInt16(72, 8, true);
    const spacing = [0, 1, 2].map((k) => Math.hypot(affine[0][k], affine[1][k], affine[2][k]));
    [1, ...spacing, 1, 1, 1, 1].forEach((mm, k) => view.setFloat32(76 + 4 * k, mm, true));
    view.setFloat32(108, 352, true);
    view.setFloat32(112, 1, true);
    view.setUint8(123, 2);
    view.setInt16(254, 1, true);
    affine.slice(0, 3).flat().forEach((value, k) => view.setFloat32(280 + 4 * k, value, true));
    raw.set([0x6e, 0x2b, 0x31, 0], 344);
    raw.set(bytes, 352);
    return raw.buffer;
  };

  medseg.fineAffine = (affine, cut) => {
    const made = affine.map((row) => row.slice());
    for (let r = 0; r < 3; r++) {
      for (let k = 0; k < 3; k++) {
        made[r][k] = affine[r][k] / cut[k];
        made[r][3] -= (affine[r][k] * (cut[k] - 1)) / (2 * cut[k]);
      }
    }
    return made;
  };

  // For each fine voxel along an axis, where it lies in the scan: two neighbours and the weight of the second.
  function along(axis, n, affine, scan) {
    const column = (matrix, k) => [0, 1, 2].map((r) => matrix[r][k]);
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const own = column(scan.affine, axis);
    const step = dot(column(affine, axis), own) / dot(own, own);
    const from = column(affine, 3).map((value, r) => value - scan.affine[r][3]);
    const start = dot(from, own) / dot(own, own);
    const last = scan.shape[axis] - 1;
    const [low, high, weight] = [new Int32Array(n), new Int32Array(n), new Float32Array(n)];
    for (let i = 0; i < n; i++) {
      const at = Math.min(last, Math.max(0, start + step * i));
      low[i] = Math.floor(at);
      high[i] = Math.min(last, low[i] + 1);
      weight[i] = at - low[i];
    }
    return { low, high, weight };
  }

  // The scan on the fine grid, linear between its voxels; both grids have the same axes.
  medseg.scanOn = (shape, affine, scan) => {
    const out = new Uint8Array(shape[0] * shape[1] * shape[2]);
    if (!scan) return out;
    const [x, y, z] = [0, 1, 2].map((axis) => along(axis, shape[axis], affine, scan));
    const [sx, sy] = scan.shape;
    const plane = new Float32Array(sx * sy);
    const row = new Float32Array(sx);
    for (let k = 0, o = 0; k < shape[2]; k++) {
      const [a, b, w] = [z.low[k] * sx * sy, z.high[k] * sx * sy, z.weight[k]];
      for (let i = 0; i < plane.length; i++) plane[i] = scan.values[a + i] * (1 - w) + scan.values[b + i] * w;
      for (let j = 0; j < shape[1]; j++) {
        const [c, d, v] = [y.low[j] * sx, y.high[j] * sx, y.weight[j]];
        for (let i = 0; i < sx; i++) row[i] = plane[c + i] * (1 - v) + plane[d + i] * v;
        for (let i = 0; i < shape[0]; i++, o++) {
          out[o] = row[x.low[i]] * (1 - x.weight[i]) + row[x.high[i]] * x.weight[i] + 0.5;
        }
      }
    }
    return out;
  };

  // What each voxel of the label grid is filled with; where both agree, nothing, so that the scan is seen.
  function fills({ reference, prediction }, fill, wanted) {
    const n = (reference || prediction).values.length;
    const out = new Uint8Array(n);
    for (let i = 0; i < n; i++) {
      const r = reference && wanted(reference.values[i]) ? reference.values[i] : 0;
      const p = prediction && wanted(prediction.values[i]) ? prediction.values[i] : 0;
      if (fill === "disagreement") {
        if (r !== p) out[i] = !p ? medseg.MISSED : !r ? medseg.EXTRA : medseg.OTHER;
      } else if (fill === "reference") out[i] = r ? medseg.structureValue(r) : 0;
      else if (fill === "prediction") out[i] = p ? medseg.structureValue(p) : 0;
    }
    return out;
  }

  // The fills on the fine grid.
  medseg.filled = (labels, cut, fill, wanted) => {
    const [nx, ny] = (labels.reference || labels.prediction).shape;
    const base = fills(labels, fill, wanted);
    const fine = (labels.reference || labels.prediction).shape.map((n, k) => n * cut[k]);
    const out = new Uint8Array(fine[0] * fine[1] * fine[2]);
    for (let z = 0, o = 0; z < fine[2]; z++) {
      const c = Math.floor(z / cut[2]);
      for (let y = 0; y < fine[1]; y++) {
        const b = nx * (Math.floor(y / cut[1]) + ny * c);
        for (let x = 0; x < fine[0]; x++, o++) out[o] = base[Math.floor(x / cut[0]) + b];
      }
    }
    return out;
  };

  // Steps of uncertainty on the fine grid; the first eighth, which is everywhere, is left out.
  medseg.unsure = (shape, affine, uncertainty) => {
    const out = medseg.scanOn(shape, affine, uncertainty);
    for (let i = 0; i < out.length; i++) out[i] = Math.floor((out[i] * medseg.UNSURE_STEPS) / 256);
    return out;
  };

  // The outlines on the fine grid: one part of a voxel thick, on the inner side of each structure.
  medseg.outlined = (labels, cut, lines, wanted) => {
    const [nx, ny, nz] = (labels.reference || labels.prediction).shape;
    const fine = [nx, ny, nz].map((n, k) => n * cut[k]);
    const out = new Uint8Array(fine[0] * fine[1] * fine[2]);
    const both = labels.reference && labels.prediction; // of one map alone structures are told apart by colour
    const mark = (side, line) => {
      if (!side || !lines.includes(line)) return;
      const own = side.values;
      const axes = [0, 1, 2].filter((k) => ![nx, ny, nz].includes(1) || [nx, ny, nz][k] > 1).filter((k) => k < 2 || cut[2] > 1);
      for (let z = 0, i = 0; z < nz; z++) {
        for (let y = 0; y < ny; y++) {
          for (let x = 0; x < nx; x++, i++) {
            const value = own[i];
            if (!value || !wanted(value)) continue;
            for (const axis of axes) {
              for (const by of [-1, 1]) {
                const [u, v, w] = [x + (axis === 0 && by), y + (axis === 1 && by), z + (axis === 2 && by)];
                const within = u >= 0 && v >= 0 && w >= 0 && u < nx && v < ny && w < nz;
                if (within && own[u + nx * (v + ny * w)] === value) continue;
                face(out, fine, cut, [x, y, z], axis, by, both ? line : medseg.structureValue(value));
              }
            }
          }
        }
      }
    };
    mark(labels.reference, medseg.LINE_REFERENCE);
    mark(labels.prediction, medseg.LINE_PREDICTION);
    return out;
  };

  function face(out, fine, cut, voxel, axis, side, line) {
    const low = voxel.map((n, k) => n * cut[k]);
    const high = low.map((n, k) => n + cut[k]);
    if (side < 0) high[axis] = low[axis] + 1;
    else low[axis] = high[axis] - 1;
    const other = line === medseg.LINE_PREDICTION ? medseg.LINE_REFERENCE : -1;
    for (let z = low[2]; z < high[2]; z++) {
      for (let y = low[1]; y < high[1]; y++) {
        for (let x = low[0]; x < high[0]; x++) {
          const o = x + fine[0] * (y + fine[1] * z);
          out[o] = out[o] === other || out[o] === medseg.LINE_BOTH ? medseg.LINE_BOTH : line;
        }
      }
    }
  }
})();
