// A server that does not take reasoning out of the content leaves it there, between tags at the beginning.

const kOpen = "<think>";
const kClose = "</think>";

export interface ThinkingAndAnswer {
  thinking: string;
  answer: string;
  complete: boolean; // the thinking has ended
}

export function splitThinking(content: string): ThinkingAndAnswer {
  const text = content.trimStart();
  if (!text.startsWith(kOpen)) {
    // While the tag arrives piece by piece it is not shown.
    const arriving = text !== "" && kOpen.startsWith(text);
    return { thinking: "", answer: arriving ? "" : content, complete: !arriving };
  }
  const end = text.indexOf(kClose);
  if (end < 0) return { thinking: text.slice(kOpen.length), answer: "", complete: false };
  const answer = text.slice(end + kClose.length).trimStart();
  return { thinking: text.slice(kOpen.length, end), answer, complete: true };
}
