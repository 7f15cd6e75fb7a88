import { defineConfig } from "vite";

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  // Served below whatever path an ingress gives it.
  base: "./",
  build: { outDir: "dist", target: "es2022", sourcemap: false },
  // `npm run dev` beside a running `weir demo`.
  server: { proxy: { "/api": "http://127.0.0.1:8086" } },
});
