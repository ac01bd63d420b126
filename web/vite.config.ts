import { defineConfig } from "vitest/config";
import { singlePage } from "./single_page.ts";

// `npm run dev` serves the sources and passes API calls on to a server that runs here.
const server = process.env["CHORALE_URL"] ?? "http://127.0.0.1:30000";

export default defineConfig({
  base: "./",
  plugins: [singlePage({ licensesOf: ["preact", "uplot"] })],
  server: { proxy: { "/v1": server, "/metrics": server, "/get_server_info": server } },
  build: {
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  test: { include: ["test/**/*.test.ts"] },
});
