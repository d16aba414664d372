import { defineConfig } from "vite";

export default defineConfig({
  base: "/",
  build: {
    outDir: "../services/gateway/http/page/static",
    emptyOutDir: true,
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // Every file is one of the gateway's own: its policy lets the page load nothing from data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: false,
  },
});
