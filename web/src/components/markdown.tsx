// Shows a model's text. It reaches the page as text nodes only; the elements around it are made here.
import type { ComponentChild } from "preact";
import { useMemo } from "preact/hooks";
import { parseMarkdown } from "../text/markdown.ts";
import type { Block } from "../text/markdown.ts";
import type { Inline } from "../text/markdown_inline.ts";
import { CopyButton } from "./copy_button.tsx";

function inline(nodes: Inline[]): ComponentChild[] {
  return nodes.map((node) => {
    switch (node.type) {
      case "text":
        return node.text;
      case "code":
        return <code>{node.text}</code>;
      case "strong":
        return <strong>{inline(node.children)}</strong>;
      case "em":
        return <em>{inline(node.children)}</em>;
    }
  });
}

function CodeBlock({ language, text }: { language: string; text: string }) {
  return (
    <div class="code-block">
      <div class="code-head">
        <span>{language || "code"}</span>
        <CopyButton text={text} what="this code" />
      </div>
      <pre tabIndex={0}>
        <code>{text}</code>
      </pre>
    </div>
  );
}

function block(node: Block): ComponentChild {
  switch (node.type) {
    case "paragraph":
      return <p>{inline(node.children)}</p>;
    case "heading":
      // The page's own headings come first.
      return node.level <= 2 ? <h3>{inline(node.children)}</h3> : <h4>{inline(node.children)}</h4>;
    case "code":
      return <CodeBlock language={node.language} text={node.text} />;
    case "rule":
      return <hr />;
    case "list": {
      const items = node.items.map((item) => <li>{item.map(block)}</li>);
      return node.ordered ? <ol start={node.start}>{items}</ol> : <ul>{items}</ul>;
    }
  }
}

export function Markdown({ text }: { text: string }) {
  return useMemo(() => <div class="prose">{parseMarkdown(text).map(block)}</div>, [text]);
}
