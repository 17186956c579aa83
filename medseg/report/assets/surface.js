// Surfaces of label maps and how far they lie apart, as medseg's scores measure it: a surface is made of the corners
// between voxels inside and outside, and a distance is that from such a corner to the nearest one of the other surface.
// Distances: Felzenszwalb and Huttenlocher 2012, one axis after the other. Triangles: surface nets, Gibson 1998.
(() => {
  "use strict";
  const medseg = (window.medseg = window.medseg || {});

  // The smallest box of voxels that holds a value in either array, a voxel wider on each side; null if there is none.
  medseg.boxOf = (arrays, [nx, ny, nz], inside) => {
    const low = [nx, ny, nz];
    const high = [-1, -1, -1];
    for (const array of arrays) {
      for (let z = 0, i = 0; z < nz; z++) {
        for (let y = 0; y < ny; y++) {
          for (let x = 0; x < nx; x++, i++) {
            if (!array[i] || !inside(array[i])) continue;
            if (x < low[0]) low[0] = x;
            if (x > high[0]) high[0] = x;
            if (y < low[1]) low[1] = y;
            if (y > high[1]) high[1] = y;
            if (z < low[2]) low[2] = z;
            if (z > high[2]) high[2] = z;
          }
        }
      }
    }
    if (high[0] < 0) return null;
    return { low: low.map((n) => n - 1), size: high.map((n, k) => n - low[k] + 3) };
  };

  // The mask of some values in a box; outside of the array there is nothing.
  medseg.maskIn = (array, shape, box, inside) => {
    const [sx, sy, sz] = box.size;
    const mask = new Uint8Array(sx * sy * sz);
    for (let z = 0, o = 0; z < sz; z++) {
      for (let y = 0; y < sy; y++) {
        for (let x = 0; x < sx; x++, o++) {
          const [i, j, k] = [x + box.low[0], y + box.low[1], z + box.low[2]];
          if (i < 0 || j < 0 || k < 0 || i >= shape[0] || j >= shape[1] || k >= shape[2]) continue;
          const value = array[i + shape[0] * (j + shape[1] * k)];
          if (value && inside(value)) mask[o] = 1;
        }
      }
    }
    return mask;
  };

  // Codes of the cells between 2 x 2 x 2 voxels, one less along each axis: bit n is voxel n of the cell.
  function codesOf(mask, [sx, sy, sz]) {
    const [cx, cy, cz] = [sx - 1, sy - 1, sz - 1];
    const codes = new Uint8Array(cx * cy * cz);
    for (let z = 0, o = 0; z < cz; z++) {
      for (let y = 0; y < cy; y++) {
        for (let x = 0; x < cx; x++, o++) {
          let code = 0;
          for (let n = 0; n < 8; n++) {
            const at = x + (n & 1) + sx * (y + ((n >> 1) & 1) + sy * (z + (n >> 2)));
            code |= mask[at] << n;
          }
          codes[o] = code;
        }
      }
    }
    return codes;
  }

  // Squared distance in mm from every cell to the nearest cell of a surface.
  function squaredDistances(codes, size, spacing) {
    const far = 1e12;
    const d = new Float32Array(codes.length);
    for (let i = 0; i < d.length; i++) d[i] = codes[i] && codes[i] !== 255 ? 0 : far;
    const [cx, cy, cz] = size;
    const strides = [1, cx, cx * cy];
    const most = Math.max(cx, cy, cz);
    const [f, v, z] = [new Float64Array(most), new Int32Array(most), new Float64Array(most + 1)];
    for (let axis = 0; axis < 3; axis++) {
      const [n, stride] = [size[axis], strides[axis]];
      const [u, w] = [0, 1, 2].filter((k) => k !== axis);
      for (let b = 0; b < size[w]; b++) {
        for (let a = 0; a < size[u]; a++) {
          line(d, a * strides[u] + b * strides[w], stride, n, spacing[axis] ** 2, f, v, z);
        }
      }
    }
    return d;
  }

  function line(d, start, stride, n, s2, f, v, z) {
    for (let q = 0; q < n; q++) f[q] = d[start + q * stride];
    let k = 0;
    v[0] = 0;
    z[0] = -Infinity;
    z[1] = Infinity;
    for (let q = 1; q < n; q++) {
      let s;
      do {
        const p = v[k];
        s = (f[q] - f[p]) / s2 + q * q - p * p;
        s /= 2 * (q - p);
      } while (s <= z[k] && --k >= 0);
      k++;
      v[k] = q;
      z[k] = s;
      z[k + 1] = Infinity;
    }
    k = 0;
    for (let q = 0; q < n; q++) {
      while (z[k + 1] < q) k++;
      d[start + q * stride] = s2 * (q - v[k]) ** 2 + f[v[k]];
    }
  }

  // For each voxel of a cell, the neighbours along the three axes with a higher number.
  const EDGES = [];
  for (let n = 0; n < 8; n++) for (const bit of [1, 2, 4]) if (!(n & bit)) EDGES.push([n, n | bit]);

  // Vertices (in voxels of the box), triangles, and the cell of each vertex.
  function net(codes, [cx, cy, cz]) {
    const [points, cells] = [[], []];
    const vertex = new Int32Array(codes.length).fill(-1);
    for (let z = 0, o = 0; z < cz; z++) {
      for (let y = 0; y < cy; y++) {
        for (let x = 0; x < cx; x++, o++) {
          const code = codes[o];
          if (!code || code === 255) continue;
          let [n, px, py, pz] = [0, 0, 0, 0];
          for (const [a, b] of EDGES) {
            if (((code >> a) & 1) === ((code >> b) & 1)) continue;
            n++;
            px += ((a & 1) + (b & 1)) / 2;
            py += (((a >> 1) & 1) + ((b >> 1) & 1)) / 2;
            pz += ((a >> 2) + (b >> 2)) / 2;
          }
          vertex[o] = cells.length;
          cells.push(o);
          points.push(x + px / n, y + py / n, z + pz / n);
        }
      }
    }
    const triangles = [];
    const steps = [1, cx, cx * cy];
    const quad = (a, b, c, d, turned) => {
      if (turned) triangles.push(a, c, b, a, d, c);
      else triangles.push(a, b, c, a, c, d);
    };
    for (const o of cells) {
      const code = codes[o];
      // voxel 7 of a cell and its neighbour along one axis below: the four cells round that edge make a quad
      for (let axis = 0; axis < 3; axis++) {
        const low = (code >> 0) & 1;
        const high = (code >> (1 << axis)) & 1;
        if (low === high) continue;
        const [u, w] = [steps[(axis + 1) % 3], steps[(axis + 2) % 3]];
        const around = [o, o - u, o - u - w, o - w].map((at) => (at >= 0 ? vertex[at] : -1));
        if (around.includes(-1)) continue;
        quad(...around, low === 0);
      }
    }
    return { points, cells, triangles };
  }

  // Laplacian smoothing for the eye: a vertex goes at most half a voxel away from where it was.
  function smoothed(points, triangles, rounds) {
    const n = points.length / 3;
    const start = Float32Array.from(points);
    let now = start;
    for (let round = 0; round < rounds; round++) {
      const [sum, count] = [new Float32Array(points.length), new Uint16Array(n)];
      for (let t = 0; t < triangles.length; t += 3) {
        for (let e = 0; e < 3; e++) {
          const [a, b] = [triangles[t + e], triangles[t + ((e + 1) % 3)]];
          for (let k = 0; k < 3; k++) {
            sum[3 * a + k] += now[3 * b + k];
            sum[3 * b + k] += now[3 * a + k];
          }
          count[a]++;
          count[b]++;
        }
      }
      const next = new Float32Array(now);
      for (let i = 0; i < n; i++) {
        if (!count[i]) continue;
        for (let k = 0; k < 3; k++) {
          const wanted = (now[3 * i + k] + sum[3 * i + k] / count[i]) / 2;
          const from = start[3 * i + k];
          next[3 * i + k] = Math.min(from + 0.5, Math.max(from - 0.5, wanted));
        }
      }
      now = next;
    }
    return now;
  }

  // The surface of one mask with its signed distance in mm to that of the other: above 0 where `sign` says so.
  // Both masks in one box; `other` may be null. Returns null where the mask is empty.
  medseg.surface = (mask, other, size, spacing, positiveInside) => {
    const cells = size.map((n) => n - 1);
    const codes = codesOf(mask, size);
    const made = net(codes, cells);
    if (!made.cells.length) return null;
    const there = other ? codesOf(other, size) : null;
    const found = there && there.some((code) => code && code !== 255) ? squaredDistances(there, cells, spacing) : null;
    const apart = new Float32Array(made.cells.length);
    made.cells.forEach((o, i) => {
      if (!found) return;
      const sign = (there[o] === 255) === positiveInside ? 1 : -1;
      apart[i] = sign * Math.sqrt(found[o]);
    });
    return { points: smoothed(made.points, made.triangles, 4), triangles: made.triangles, apart, alone: !found };
  };
})();
