// Makes one self-contained HTML file of the build, and the Content-Security-Policy that admits exactly its script and
// its style. The server sends the policy as it is in csp.txt.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Plugin } from "vite";

function sha256(text: string): string {
  return `'sha256-${createHash("sha256").update(text, "utf8").digest("base64")}'`;
}

function policy(script: string, style: string): string {
  return [
    "default-src 'none'",
    `script-src ${sha256(script)}`,
    `style-src ${sha256(style)}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    // No text can become markup, even by a mistake in the page.
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; ");
}

// The licenses of what is bundled ask that their text goes along.
function licenses(packages: string[]): string {
  const texts = packages.map((name) => {
    const text = readFileSync(new URL(`./node_modules/${name}/LICENSE`, import.meta.url), "utf8");
    return `${name}\n\n${text.replaceAll("\r\n", "\n").trim()}`;
  });
  const comment = `This page contains:\n\n${texts.join("\n\n")}`;
  if (comment.includes("--")) throw new Error("a license text would end the HTML comment");
  return `<!--\n${comment}\n-->\n`;
}

export function singlePage(options: { licensesOf: string[] }): Plugin {
  return {
    name: "single-page",
    enforce: "post",
    apply: "build",
    generateBundle(_, bundle) {
      let html = "";
      let script = "";
      let style = "";
      for (const [name, file] of Object.entries(bundle)) {
        if (file.type === "chunk") {
          if (script !== "") throw new Error(`the build has a second script, ${name}`);
          script = file.code;
        } else if (name.endsWith(".css")) {
          if (style !== "") throw new Error(`the build has a second style, ${name}`);
          style = String(file.source);
        } else if (name.endsWith(".html")) {
          html = String(file.source);
        } else {
          throw new Error(`${name} cannot be put into the page`);
        }
        delete bundle[name];
      }
      script = script.trim();
      style = style.trim();
      // A browser reads CR as LF, and would then find another hash.
      if (/\r/.test(script + style)) throw new Error("the script or the style has a carriage return");
      if (/<\/script|<!--/i.test(script)) throw new Error("the script would end its own element");
      if (/<\/style/i.test(style)) throw new Error("the style would end its own element");

      const links = /[ \t]*<(?:script\b[^>]*\bsrc=[^>]*><\/script>|link\b[^>]*rel="(?:stylesheet|modulepreload)"[^>]*>)\s*?\n/g;
      html = html.replace(links, "");
      html = html.replace("</head>", () => `  <style>${style}</style>\n  </head>`);
      html = html.replace("</body>", () => `  <script type="module">${script}</script>\n  </body>`);
      html = html.replace("<!doctype html>\n", () => `<!doctype html>\n${licenses(options.licensesOf)}`);
      if (/\s(?:src|href)="(?!data:)/.test(html.replace(script, "").replace(style, ""))) {
        throw new Error("the page would load something");
      }
      this.emitFile({ type: "asset", fileName: "index.html", source: html });
      this.emitFile({ type: "asset", fileName: "csp.txt", source: `${policy(script, style)}\n` });
    },
  };
}
