import { render } from "preact";
import { App } from "./components/app.tsx";
import { startMonitor } from "./state/monitor.ts";
import "./style.css";

const root = document.getElementById("app");
if (root === null) throw new Error("the page has no place for the application");
render(<App />, root);
startMonitor();
